"""Given answers: likelihoods and the model's own tokens over a shared prefix as from whole prompts, side by side."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_language_models import CONFIGS, byte_tokenizer, sharpen

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.data.sample import MediaRef
from vidtune.generation.engine import AnswerEngine
from vidtune.generation.settings import GenerationSettings, Request
from vidtune.models.video_lm import VideoLM
from vidtune.registry import SYSTEMS

TOWER = {
    **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
}
OPTIONS = ("(A)", "(B) a man", "no")


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    architecture = SYSTEMS["video_llava"].architecture
    towers = {"image": TOWER, "video": {**TOWER, "num_frames": 2}}
    model = VideoLM(architecture.build_config(CONFIGS["qwen2_grouped"], towers, {}))
    sharpen(model)
    return model.eval(), build_processor(model.config, byte_tokenizer())


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    return MediaRef("image", str(path))


def ask(parts, requests, **options):
    with AnswerEngine(*parts, GenerationSettings(max_new_tokens=4), prompt="llava_v1", workers=0, **options) as engine:
        return {answer.id: answer for answer in engine.answer(requests)}, engine.stats


def logits_of(parts, question, picture, option):
    """Logits before each byte of the option, all of them behind the whole prompt in one call; and the bytes."""
    model, processor = parts
    given = processor(question, images=[picture.path], prompt="llava_v1")
    ids = torch.tensor([list(f" {option}".encode())])
    embeds = torch.cat([model.embed(given["input_ids"], given["media"]), model.get_input_embeddings()(ids)], dim=1)
    with torch.inference_mode():
        return model.language_model(inputs_embeds=embeds).logits[0, -ids.shape[1] - 1 : -1], ids[0][:, None]


def by_hand(parts, question, picture, option):
    """Mean log-likelihood of the option's bytes."""
    logits, ids = logits_of(parts, question, picture, option)
    return logits.log_softmax(-1).gather(-1, ids).mean().item()


def requests(picture):
    asked = [
        Request(str(i), (picture,), question, options=OPTIONS) for i, question in enumerate(("Who?", "What is it?"))
    ]
    return [*asked, Request("free", (picture,), "Who?"), Request("two", (picture,), "Who is it?", options=OPTIONS[:2])]


@pytest.mark.parametrize("at_once", [1, 64])
def test_likelihoods_over_a_shared_prefix_are_those_of_whole_prompts(parts, picture, at_once):
    shared, stats = ask(parts, requests(picture), max_batch_questions=at_once)
    alone, _ = ask(parts, requests(picture), share_prefix=False)
    assert (stats.encodings, stats.prefills) == (1, 1)
    assert replace(shared["free"], margin=None) == replace(alone["free"], margin=None)
    assert not shared["free"].likelihoods
    for request in requests(picture):
        wanted = [by_hand(parts, request.question, picture, option) for option in request.options]
        for found in (shared[request.id], alone[request.id]) if wanted else ():
            assert found.likelihoods == pytest.approx(wanted, abs=1e-4)
            assert found.text == request.options[int(np.argmax(wanted))] and found.finish_reason == "option"


def test_an_option_without_text_is_an_error_of_its_question_alone(parts, picture):
    asked = [Request("a", (picture,), "Who?", options=("", "x")), Request("b", (picture,), "Who?", options=("x", "y"))]
    found, _ = ask(parts, asked)
    assert "one of its options is empty" in found["a"].error and found["b"].error is None


def test_numbers_that_are_not_finite_are_no_likelihoods(parts, picture):
    model, processor = parts
    weight = model.get_output_embeddings().weight
    kept = weight.data.clone()
    weight.data[:] = math.nan
    found, _ = ask((model, processor), requests(picture)[:1])
    weight.data[:] = kept
    assert "NaN or Inf" in found["0"].error


@pytest.mark.parametrize("options", [{}, {"share_prefix": False}, {"max_batch_questions": 1}])
def test_a_given_answer_gets_the_token_that_the_model_would_say_in_the_place_of_each_of_its_own(
    parts, picture, options
):
    given = {"long": "(B) a man", "short": "no"}
    asked = [Request(name, (picture,), "Who?", forced=text) for name, text in given.items()]
    found, _ = ask(parts, [*asked, *requests(picture)[2:]], **options)
    for name, text in given.items():
        wanted = logits_of(parts, "Who?", picture, text)[0].argmax(-1).tolist()
        assert list(found[name].token_ids) == wanted and found[name].finish_reason == "forced"
        assert found[name].text == bytes(token for token in wanted if token < 256).decode(errors="replace").strip()
    assert found["free"].finish_reason != "forced" and found["two"].likelihoods


def test_a_given_answer_is_a_text_and_stands_alone(parts, picture):
    asked = [
        Request("a", (picture,), "Who?", forced=" "),
        Request("b", (picture,), "Who?", forced="x", options=("x", "y")),
    ]
    found, _ = ask(parts, asked)
    assert all("given answer is empty, or stands beside options" in found[name].error for name in "ab")
