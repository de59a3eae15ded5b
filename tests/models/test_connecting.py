"""Connectors that change the number of tokens, or take extras, between towers and the language model."""

import numpy as np
import pytest
import torch
from made_up_parts import STANDARD_ROWS, MergingConfig, made_up_parts, model_of
from no_waiting import NoWaiting
from tiny_models import packed, random_example, tiny_model

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.features.collection import stream_spec
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing
from vidtune.models.config import VideoLMConfig
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Example, Item, MediaSlot, pack
from vidtune.processing.stream_settings import Measure, Measured


@pytest.fixture(autouse=True)
def parts():
    with made_up_parts():
        yield


def items_of(model, *rows: int, **known) -> list[Item]:
    values = [torch.randn(number, 3, generator=torch.Generator().manual_seed(number)) for number in rows]
    return [Item(value, model.config.num_tokens("rows", tuple(value.shape)), **known) for value in values]


@pytest.mark.parametrize("rows", [(4, 4, 4), (4, 7, 2)])
@pytest.mark.parametrize("stored", [(), (1,), (0, 1, 2)])
def test_items_together_equal_items_alone(rows, stored):
    model = model_of("adjacent")
    items = items_of(model, *rows)
    alone = [next(model.encode_items("rows", [item])) for item in items]
    assert [len(block) for block in alone] == [number // 2 for number in rows]
    for place in stored:
        features = model.tower_features("rows", items[place].values[None])[0]
        items[place] = Item(features, items[place].num_tokens, encoded=True)
    for block, wanted in zip(model.encode_items("rows", items), alone, strict=True):
        torch.testing.assert_close(block, wanted, atol=1e-6, rtol=0)


def test_a_connector_that_takes_items_gets_the_extras_of_each():
    model = model_of("spans")
    halves, ends = torch.tensor([[0.0, 0.5], [0.5, 1.0]]), torch.tensor([[0.0, 0.2], [0.8, 1.0]])
    items = [
        Item(torch.randn(rows, 3), 2, extras={"spans": spans}) for rows, spans in ((4, halves), (10, ends), (4, halves))
    ]
    blocks = list(model.encode_items("rows", items))
    assert [tuple(block.shape) for block in blocks] == [(2, 32)] * 3
    features = model.tower_features("rows", items[1].values[None])[0]
    linear = model.connectors["rows"].linear
    torch.testing.assert_close(blocks[1], linear(torch.stack([features[:2].mean(0), features[8:].mean(0)])))
    lacking = [Item(torch.randn(4, 3), 2, name="train:3: /clip.mp4")]
    with pytest.raises(UserError, match=r"train:3: /clip\.mp4: stream 'rows' needs spans beside the file"):
        list(model.encode_items("rows", lacking))
    zero = model.train().untouched_streams([])
    assert float(zero.detach()) == 0 and zero.requires_grad


@pytest.mark.parametrize("promise", [1, -1])
def test_a_measure_that_disagrees_with_the_connector_is_named(promise):
    model = model_of("adjacent", promise=promise)
    tokens = model.config.num_tokens("rows", (8, 3))
    item = Item(torch.randn(8, 3), tokens, Measured(tokens), name="train:7: /clip.mp4")
    with pytest.raises(UserError, match=rf"train:7: /clip\.mp4: stream 'rows' promises {tokens} tokens .* gives 4;"):
        list(model.encode_items("rows", [item]))


def test_a_pack_of_items_of_many_shapes_equals_one_by_one():
    model = model_of("adjacent")
    placeholder = model.config.placeholder_ids["rows"]

    def example(number: int, rows: int) -> tuple[Example, list[np.ndarray]]:
        tokens = model.config.num_tokens("rows", (rows, 3))
        ids = np.array([1 + number, *[placeholder] * tokens, 5, 6 + number])
        labels = np.where(np.arange(len(ids)) > tokens, ids, -100)
        owners = np.where(ids == placeholder, 0, -1)
        slot = MediaSlot(MediaRef("rows", f"/{number}"), tokens, measured=Measured(tokens))
        values = np.random.default_rng(number).standard_normal((rows, 3), dtype=np.float32)
        return Example(str(number), ids, labels, (slot,), owners=owners), [values]

    examples = [example(number, rows) for number, rows in enumerate((4, 9, 2, 4))]
    together = model.loss_sum(packed(examples))
    alone = sum(model.loss_sum(packed([one])) for one in examples)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_a_pass_of_training_does_not_wait_for_the_device(monkeypatch):
    # transformers itself looks once at the positions before its first layer.
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)
    model = tiny_model().train()
    batch = packed([random_example(model, kind, seed) for seed, kind in enumerate(("video", "image", "video,image"))])
    assert batch.places is not None
    with NoWaiting():
        model.loss_sum(batch).backward()
    plain = pack([Example("0", np.arange(4), np.arange(4))], [[]])
    with NoWaiting():
        model.loss_sum(plain).backward()


def test_places_of_a_pack_are_those_that_its_ids_tell():
    model = tiny_model()
    batch = packed([random_example(model, kind, seed) for seed, kind in enumerate(("video", "", "image,video,image"))])
    found = model.find_places(batch.input_ids, batch.media)
    assert {stream: [place.tolist() for place in places] for stream, places in found.items()} == {
        stream: [place.tolist() for place in places] for stream, places in batch.places.items()
    }
    torch.testing.assert_close(
        model.embed(batch.input_ids, batch.media), model.embed(batch.input_ids, batch.media, batch.places)
    )


def test_zero_items_have_the_shape_of_the_standard_item():
    model = model_of("adjacent")
    assert [tuple(block.shape) for block in model.encode_zeros("rows", 2)] == [(STANDARD_ROWS // 2, 32)] * 2


@pytest.mark.parametrize("fault", ["none", "items", "dimensions", "width", "list", "raises"])
def test_a_faulty_connector_is_named(fault):
    model = model_of("faulty", fault=fault)
    items = [Item(torch.randn(4, 3), 4), Item(torch.randn(4, 3), 4)]
    with pytest.raises(UserError, match=r"^connector type 'faulty'"):
        list(model.encode_items("rows", items))


@pytest.mark.parametrize("wrong", [lambda x: None, lambda x: x[:1, 0], lambda x: x[..., :2], lambda x: x @ x, list])
def test_a_faulty_tower_is_named(wrong):
    model = model_of("adjacent")
    model.towers["rows"].forward = wrong
    with pytest.raises(UserError, match=r"^tower type 'rows'"):
        list(model.encode_items("rows", [Item(torch.randn(4, 3), 2), Item(torch.randn(4, 3), 2)]))


@pytest.mark.parametrize(
    "wrong", [lambda f, e: None, lambda f, e: f[:1], lambda f, e: [x[0] for x in f], lambda f, e: f[9]]
)
def test_a_faulty_condensing_is_named(wrong, monkeypatch):
    model = model_of("merging")
    monkeypatch.setattr(MergingConfig, "condense", staticmethod(wrong))
    with pytest.raises(UserError, match=r"^connector type 'merging'"):
        list(model.encode_items("rows", [Item(torch.randn(4, 3), 2), Item(torch.randn(4, 3), 2)]))


def test_a_full_memory_is_no_fault_of_a_connector():
    with pytest.raises(torch.OutOfMemoryError):
        list(model_of("faulty", fault="memory").encode_items("rows", [Item(torch.randn(4, 3), 4)]))


@pytest.mark.parametrize("fault", ["count raises", "count is text"])
def test_a_faulty_count_is_named(fault):
    with pytest.raises(UserError, match=r"^num_tokens of FaultyConfig for shape \(4, 4\)"):
        model_of("faulty", fault=fault).config.num_tokens("rows", (4, 3))


def test_extras_have_the_declared_shape_and_a_way_to_the_connector():
    item = Item(torch.randn(4, 3), 2, extras={"spans": torch.zeros(3, 2)}, name="train:3: /clip.mp4")
    with pytest.raises(UserError, match=r"train:3: .*'spans' have shape \(3, 2\).*needs \(2, 2\)"):
        list(model_of("spans").encode_items("rows", [item]))
    with pytest.raises(UserError, match="connector type 'faulty' declares extras"):
        model_of("faulty", fault="extras")


def two_streams(**settings: object) -> VideoLM:
    """A model whose streams "pairs" and "rows" share tower and connector; ``settings`` are those of "rows"."""
    spec = model_of("merging", group=2).config.to_dict()
    shared = {"tower": "rows", "connector": "rows"}
    streams = {"pairs": shared, "rows": {**shared, "connector_settings": settings}}
    names = ("system", "text_config", "towers", "connectors")
    return VideoLM(VideoLMConfig(streams=streams, **{name: spec[name] for name in names})).eval()


def test_streams_that_share_a_connector_condense_by_their_own_settings():
    model = two_streams(group=3)
    config = VideoLMConfig.from_dict(model.config.to_dict())
    for stream, group in (("pairs", 2), ("rows", 3)):
        tokens = 12 // group
        assert config.feature_shape(stream, (12, 3)) == (tokens, 4) and config.num_tokens(stream, (12, 3)) == tokens
        values = torch.randn(12, 3)
        features = model.towers["rows"](values).unflatten(0, (-1, group)).mean(1)
        [block] = model.encode_items(stream, [Item(values, tokens, Measured(tokens))])
        torch.testing.assert_close(block, model.connectors["rows"](features))
        measure = Measure(tower=config.tower_spec("rows"), connector=config.connector_spec_of(stream))
        assert measure((12, 3)).tokens == tokens
    specs = [
        stream_spec(config, stream, model.towers["rows"], ImagePreprocessing(), "float32", {})
        for stream in ("pairs", "rows")
    ]
    assert [spec.tower["condensed"]["group"] for spec in specs] == [2, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_size": 8}, r"'output_size' of connector 'rows': group, spans can differ$"),
        ({"grup": 8}, r"'grup' of connector 'rows': group, spans can differ$"),
        ({"group": "many"}, r"stream 'rows': connector_settings: .*group is \"many\"; expected a whole number$"),
    ],
)
def test_settings_that_a_stream_cannot_change_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        two_streams(**settings)
