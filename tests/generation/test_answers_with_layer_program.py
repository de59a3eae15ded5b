"""A layer program gives the same answers over a shared prefix, alone, by ``generate`` and in a training pass."""

import numpy as np
import pytest
import torch
from layer_programs import PROGRAMS, LevelsConfig, model_with
from tiny_language_models import byte_tokenizer, sharpen

from vidtune.data.sample import MediaRef
from vidtune.generation.decoding import SinglePrompt, TokenChooser, decode_steps
from vidtune.generation.grouping import Prompt, common_length
from vidtune.generation.prompt_tokens import EncodedMedia
from vidtune.generation.settings import GenerationSettings
from vidtune.generation.shared_prefix import Branches, Prefix
from vidtune.generation.stopping import AnswerInProgress
from vidtune.processing.batch import Example, Item, MediaSlot, pack
from vidtune.registry import CONNECTORS

NEW_TOKENS = 8
QUESTIONS = ([11, 12, 13], [14], [15, 16, 17, 18, 19], [11, 12, 20])


@pytest.fixture(autouse=True)
def levels():
    CONNECTORS.register("levels", LevelsConfig)
    yield
    CONNECTORS.unregister("levels")


@pytest.fixture(params=PROGRAMS)
def model(request):
    model = model_with(PROGRAMS[request.param])
    torch.manual_seed(1)
    sharpen(model.language_model)
    return model


def media_of(model) -> dict[str, list[Item]]:
    generator, items = torch.Generator().manual_seed(2), {}
    for stream in ("video", "image"):
        shape = model.config.tower(stream).input_shape()
        values = torch.randn(shape, generator=generator)
        items[stream] = [Item(values, model.config.num_tokens(stream, shape))]
    return items


def prompt(model, media, order: str, question: list[int]) -> Prompt:
    """A prompt of the pieces in ``order``: "v" video, "i" image, "q" the question; a word stands after each medium."""
    names, ids, owners, slots = {"v": "video", "i": "image"}, [[1]], [[-1]], []
    for piece in order:
        if piece == "q":
            ids.append(question)
            owners.append([-1] * len(question))
        else:
            [item] = media[names[piece]]
            ids.append([model.config.placeholder_ids[names[piece]]] * item.num_tokens + [7])
            owners.append([len(slots)] * item.num_tokens + [-1])
            slots.append(MediaSlot(MediaRef(names[piece], f"/{piece}"), item.num_tokens))
    ids, owners = np.concatenate(ids), np.concatenate(owners)
    example = Example("", ids, np.full(len(ids), -100), tuple(slots), owners=owners)
    return Prompt(example, 0, NEW_TOKENS)


def answered(prompts, count: int) -> list[list[int]]:
    answers = [AnswerInProgress(f"q{i}", byte_tokenizer(), (), (), NEW_TOKENS) for i in range(count)]
    for _ in decode_steps(prompts, answers, TokenChooser(GenerationSettings())):
        pass
    return [answer.token_ids for answer in answers]


ORDERS = [["viq"], ["qvi", "viq", "qvi"]]
OTHER_ORDERS = [["qvi"], ["vqi"], ["viq", "vqi"]]


@pytest.mark.parametrize(
    "orders", [*ORDERS, *(pytest.param(orders, marks=pytest.mark.whole) for orders in OTHER_ORDERS)], ids=str
)
def test_shared_prefix_equals_plain(model, orders):
    media = media_of(model)
    encoded = EncodedMedia(model, media)
    prompts = [prompt(model, media, orders[i % len(orders)], list(q)) for i, q in enumerate(QUESTIONS)]
    shared = common_length(prompts)
    prefix = Prefix(model.language_model, encoded.tokens(prompts[:1], end=shared))
    together = answered(Branches(prefix, encoded.tokens(prompts, begin=shared)), len(prompts))
    alone = [answered(SinglePrompt(model.language_model, encoded.tokens([one])), 1)[0] for one in prompts]
    assert together == alone
    assert len({tuple(tokens) for tokens in together}) > 2


def test_long_questions_that_repeat_the_prefix_give_the_same(model, monkeypatch):
    monkeypatch.setattr("vidtune.generation.shared_prefix.LONG_QUESTION", 1)
    test_shared_prefix_equals_plain(model, ["qvi"])


def test_plain_decoding_equals_generate_and_the_training_pass(model):
    media = media_of(model)
    one = prompt(model, media, "vqi", [11, 12])
    encoded = EncodedMedia(model, media).tokens([one])
    ids = torch.from_numpy(one.ids)[None]
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    found = model.generate(ids, attention_mask=torch.ones_like(ids), media=media, **options)
    alone = answered(SinglePrompt(model.language_model, encoded), 1)[0]
    assert found[0, ids.shape[1] :].tolist() == alone
    if model.program.guided_after is not None:
        return  # the last token of a training pass is another one than that of the prompt
    followed = np.concatenate((one.ids, alone[:3]))
    labels = np.concatenate((one.example.labels, alone[:3]))
    owners = np.concatenate((one.example.owners, [-1] * 3))
    trained = Example("", followed, labels, one.example.media, owners=owners)
    batch = pack([trained], [[media["video"][0], media["image"][0]]])
    with torch.no_grad():
        logits = model(batch.input_ids, media=batch.media).logits[0, -4:-1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(alone[:3]), reduction="sum")
        torch.testing.assert_close(model.loss_sum(batch), loss)
    assert logits.argmax(-1).tolist() == alone[:3]


def test_dropped_tokens_take_no_room_for_keys_and_values(model):
    if not model.program.drops or model.program.guided_after is not None:
        return
    media = media_of(model)
    prompts = [prompt(model, media, "viq", [11])]
    tokens = EncodedMedia(model, media).tokens(prompts, end=common_length(prompts))
    prefix = Prefix(model.language_model, tokens)
    counts = [media["video"][0].num_tokens, media["image"][0].num_tokens]
    text = tokens.lengths[0] - sum(counts)
    left = [counts, [counts[0] // 2, counts[1]], [counts[0] // 4, counts[1] // 4]]
    assert prefix.lengths == [text + sum(one) for one in left]
    assert [keys.shape[1] for keys, _ in prefix.layers] == [prefix.lengths[stage] for stage in (0, 1, 1, 2, 2)]


def test_a_prefix_is_shared_up_to_the_first_choice_by_attention():
    model = model_with(PROGRAMS["guided"])
    media = media_of(model)
    encoded = EncodedMedia(model, media)
    prompts = [prompt(model, media, "viq", list(question)) for question in QUESTIONS]
    shared = common_length(prompts)
    prefix = Prefix(model.language_model, encoded.tokens(prompts[:1], end=shared))
    assert prefix.lengths == [shared, 0, 0, 0]
    branches = Branches(prefix, encoded.tokens(prompts, begin=shared))
    branches.start()
    video, image = (media[stream][0].num_tokens for stream in ("video", "image"))
    gone = [0, video // 2, video - int(0.4 * video) + image - int(0.4 * image)]
    gone.append(video - int(0.2 * video) + image - int(0.4 * image))
    assert branches.lengths[0] == [len(one.ids) - shared for one in prompts]
    for stage in (1, 2, 3):
        assert branches.lengths[stage] == [len(one.ids) - gone[stage] for one in prompts]


def test_a_choice_by_attention_is_only_made_where_its_streams_are():
    model = model_with(PROGRAMS["guided_compact"])
    program = EncodedMedia(model, {}).program
    assert not program and program.guided_after is None


def test_no_prefix_ends_inside_an_item(model):
    media = media_of(model)
    whole = prompt(model, media, "qv", [11])
    cut = Example("", whole.ids[:-1], whole.example.labels[:-1], whole.example.media, owners=whole.example.owners[:-1])
    assert common_length([Prompt(cut, 0, 1)] * 2) == 2
