"""NaN and Inf are never an answer: the request fails with the likely causes, the others of its batch go on."""

from copy import deepcopy

import pytest
import torch
from tiny_language_models import CONFIGS, byte_tokenizer
from tiny_models import TOWER

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.generation.conversation import Conversation
from vidtune.generation.decoding import TokenChooser
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.settings import GenerationSettings, Request
from vidtune.models.video_lm import VideoLM
from vidtune.registry import SYSTEMS

NAN, INF = float("nan"), float("inf")
GREEDY = GenerationSettings(max_new_tokens=6)
DRAWN = GenerationSettings(max_new_tokens=6, do_sample=True, temperature=1.5, top_p=0.9, top_k=40)
SOUND = ["Who?", "What is it, at the very end?", "Where?"]


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    towers = {"image": TOWER, "video": {**TOWER, "num_frames": 2}}
    config = SYSTEMS["video_llava"].architecture.build_config(CONFIGS["llama"], towers, {})
    return VideoLM(config).eval(), build_processor(config, byte_tokenizer())


def broken(parts):
    """The model with one broken row of its embedding, that of the sign ~."""
    model = deepcopy(parts[0])
    model.get_input_embeddings().weight.data[ord("~")] = NAN
    return model, parts[1]


def answers(parts, questions, settings=GREEDY, **options):
    with AnswerEngine(*parts, settings, prompt="llava_v1", workers=0, **options) as engine:
        found = engine.answer(Request(question, (), question) for question in questions)
        return {answer.id: answer for answer in found}, engine.stats


@pytest.mark.parametrize("settings", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("share", [True, False])
def test_one_broken_answer_fails_and_its_batch_mates_stay_as_they_are(parts, settings, share):
    expected, _ = answers(parts, SOUND, settings, share_prefix=share)
    found, stats = answers(broken(parts), [SOUND[0], "Which ~?", *SOUND[1:]], settings, share_prefix=share)
    failed = found.pop("Which ~?")
    assert found == expected
    assert (failed.text, failed.token_ids, failed.finish_reason) == ("", (), "error")
    assert "NaN or Inf (after 0 tokens), in float32: a weight" in failed.error
    assert stats.questions == len(SOUND) and stats.new_tokens == sum(len(one.token_ids) for one in expected.values())


def test_a_stream_and_a_conversation_raise_and_show_nothing(parts):
    with AnswerEngine(*broken(parts), GREEDY, prompt="llava_v1", workers=0) as engine:
        pieces = []
        with pytest.raises(UserError, match="NaN or Inf"):
            pieces.extend(engine.stream(Request("r", (), "Which ~?")))
        talk = Conversation(engine)
        with pytest.raises(UserError, match="NaN or Inf"):
            talk.ask("Which ~?")
        assert not pieces and not talk.turns and engine.stats.questions == 0


def test_values_too_large_for_float16_are_said(parts):
    model = deepcopy(parts[0])
    model.language_model.get_decoder().layers[0].mlp.up_proj.weight.data *= 1e4
    model.language_model.get_decoder().layers[0].mlp.down_proj.weight.data *= 1e4
    assert all(answer.error is None for answer in answers((model, parts[1]), SOUND)[0].values())
    for answer in answers((model.half(), parts[1]), SOUND)[0].values():
        assert "too large for float16; use dtype bfloat16 or float32" in answer.error


def test_broken_features_of_a_stream_are_named(parts, monkeypatch):
    shape = parts[1].streams["image"].preprocessing
    monkeypatch.setattr(type(shape), "load", lambda *args, **kwargs: torch.full((3, 16, 16), NAN).numpy())
    request = Request("r", (MediaRef("image", "a.png"),), "Who?")
    with AnswerEngine(*parts, GREEDY, prompt="llava_v1", workers=0) as engine:
        [answer] = engine.answer([request])
    assert "already in the embeddings of stream image" in answer.error


@pytest.mark.parametrize("settings", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_only_rows_without_a_usable_logit_have_no_token(settings):
    rows = [[1.0, 2.0, -INF], [1.0, NAN, 0.0], [1.0, INF, 0.0], [-INF] * 3, [3.0, 0.0, 0.0]]
    chooser = TokenChooser(settings)
    tokens = chooser.choose(torch.tensor(rows), [chooser.generator(str(row)) for row in range(5)])
    assert [token is None for token in tokens] == [False, True, True, True, False]
    assert tokens[0] in (0, 1)
    same = TokenChooser(settings).choose(torch.tensor([rows[4]]), [chooser.generator("4")])
    assert same == tokens[4:]


@pytest.mark.parametrize("temperature", [1e-20, 1e-12])
def test_a_temperature_near_zero_takes_the_most_probable_token(temperature):
    chooser = TokenChooser(GenerationSettings(do_sample=True, temperature=temperature))
    logits = torch.tensor([[0.0, -2e9, -5.0], [1.0, 3e4, 2.0], [-3.0, -2.0, -9.0]])
    generators = [chooser.generator(str(row)) for row in range(3)]
    assert chooser.choose(logits, generators) == [0, 1, 1]
