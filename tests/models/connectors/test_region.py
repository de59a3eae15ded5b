"""Region connector: tokens of boxes of an item, alone and among others, in a model whose streams share a tower."""

from dataclasses import replace

import pytest
import torch
from no_waiting import NoWaiting
from tiny_models import TOWER, tiny_model

from vidtune.errors import UserError
from vidtune.models.config import VideoLMConfig
from vidtune.models.connectors import region
from vidtune.models.connectors.base import connector_config
from vidtune.models.connectors.region import RegionConnector, RegionConnectorConfig
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Item

GRID = TOWER["image_size"] // TOWER["patch_size"]
SIZES = {
    "hidden_size": TOWER["hidden_size"],
    "output_size": 32,
    "num_levels": 2,
    "grid": GRID,
    "rounds": 2,
    "groups": 4,
    "roi_size": 3,
    "image_size": TOWER["image_size"],
    "inner_size": 8,
    "position_size": 4,
    "clusters": 3,
}


@pytest.fixture
def connector() -> RegionConnector:
    torch.manual_seed(0)
    return RegionConnectorConfig(**SIZES).build().eval()


def items_of(config: RegionConnectorConfig, *lengths: int, drawn: tuple[int, ...] = ()):
    """Features and extras of items of these numbers of boxes; those of some places have a draw."""
    features, extras = [], []
    for place, length in enumerate(lengths):
        features.append(torch.randn(config.num_levels, length * config.grid**2, config.hidden_size))
        boxes = torch.rand(length, 2, 2).sort(1).values.flatten(1)
        extras.append({"boxes": boxes, **({"draw": torch.rand(length)} if place in drawn else {})})
    return features, extras


def test_items_together_equal_items_alone(connector):
    features, extras = items_of(connector.config, 1, 6, 2, 5, 6, 6, drawn=(3, 5))
    together = connector(features, extras)
    assert [len(block) for block in together] == [1, 3, 2, 3, 3, 3]
    for block, one, more in zip(together, features, extras, strict=True):
        assert len(block) == connector.config.num_tokens(tuple(one.shape))
        torch.testing.assert_close(block, connector([one], [more])[0], atol=1e-5, rtol=0)


def test_autocast_rounds_no_box(connector):
    features, extras = items_of(connector.config, 4)
    places = []
    connector.roi_align.pos_embedd.register_forward_hook(lambda module, given, place: places.append(place))
    connector(features, extras)
    with torch.autocast("cpu", torch.bfloat16):
        connector(features, extras)
    assert torch.equal(*places)


def test_chosen_tokens_are_tokens_of_boxes_in_their_order(connector):
    (features,), (extras,) = items_of(connector.config, 7)
    every = replace(connector.config, clusters=None).build()
    every.load_state_dict(connector.state_dict())
    all_tokens, chosen = every([features], [extras])[0], connector([features], [extras])[0]
    places = [int((all_tokens - token).abs().amax(1).argmin()) for token in chosen]
    assert places == sorted(set(places)) and len(places) == 3
    torch.testing.assert_close(chosen, all_tokens[places], atol=1e-6, rtol=0)
    draws = {
        tuple(connector([features], [{**extras, "draw": torch.full((7,), part)}])[0].flatten().tolist())
        for part in (0.0, 0.5, 0.999)
    }
    assert len(draws) > 1 and tuple(chosen.flatten().tolist()) in draws


def test_frames_in_parts_equal_frames_at_once(connector, monkeypatch):
    features, extras = items_of(connector.config, 2, 3)
    connector.train()
    results = []
    for numbers in (10**9, 1):
        monkeypatch.setattr(region, "MAP_NUMBERS", numbers)
        connector.zero_grad()
        tokens = torch.cat(connector(features, extras))
        tokens.square().sum().backward()
        results.append((tokens, [parameter.grad.clone() for parameter in connector.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=0)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_every_part_gets_a_gradient_and_boxes_none(connector):
    features, extras = items_of(connector.config, 5)
    boxes = extras[0]["boxes"].requires_grad_()
    connector.roi_align.crops(connector.mlvl_fuse(torch.randn(5, 2, GRID, GRID, 16)), boxes)[0].sum().backward()
    assert boxes.grad is None
    connector.zero_grad()
    connector(features, [{"boxes": boxes.detach()}])[0].square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in connector.parameters())


def test_no_step_waits_for_the_device(connector):
    features, extras = items_of(connector.config, 5, 5, 1, drawn=(1,))
    with NoWaiting():
        torch.cat(connector(features, extras)).square().sum().backward()


def test_initial_weights():
    torch.manual_seed(0)
    built = RegionConnectorConfig(**{**SIZES, "hidden_size": 64}).build()
    fuse, pooled = built.mlvl_fuse.fuse_convs[0].conv, built.roi_align.pconvs[0]
    assert fuse.bias is None and not pooled.bias.any()
    assert float(fuse.weight.detach().std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert float(pooled.weight.detach().std()) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 3}, "hidden_size 16 does not divide into 3 groups"),
        ({"hidden_size": 2, "groups": 1}, "hidden_size 2 is less than 4"),
        ({"clusters": 0}, "clusters 0 is less than 1"),
        ({"rounds": 0}, "rounds 0 is less than 1"),
        ({"side": 3}, "connector 'region': .*side"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        connector_config({"type": "region", **SIZES, **change})


def regions_model() -> VideoLM:
    """A model of pictures and boxes: both read one tower, boxes by two taps."""
    plain = tiny_model().config
    torch.manual_seed(0)
    return VideoLM(
        VideoLMConfig(
            system=plain.system,
            text_config=plain.text_config,
            towers={"clip": {"type": "clip_pooled", **TOWER, "pooled_frames": 6}},
            connectors={
                "visual": {"type": "mlp", "input_size": TOWER["hidden_size"], "output_size": 32},
                "region": {"type": "region", **SIZES},
            },
            streams={
                "video": {"tower": "clip", "connector": "visual"},
                "boxes": {"tower": "clip", "connector": "region", "taps": [0, 2]},
            },
        )
    ).eval()


def test_streams_of_boxes_and_of_averaged_clips_share_a_tower():
    model, clip = regions_model(), torch.randn(3, 5, 16, 16)
    assert model.config.feature_shape("boxes", tuple(clip.shape)) == (2, 5 * GRID**2, 16)
    assert model.config.feature_shape("video", tuple(clip.shape)) == (6 + GRID**2, 16)
    boxes = torch.rand(5, 2, 2).sort(1).values.flatten(1)
    items = [Item(clip, 3, extras={"boxes": boxes}), Item(clip[:, :1], 1, extras={"boxes": boxes[:1]})]
    assert [tuple(block.shape) for block in model.encode_items("boxes", items)] == [(3, 32), (1, 32)]
    assert next(model.encode_items("video", [Item(clip, 6 + GRID**2)])).shape == (6 + GRID**2, 32)
    assert [tuple(block.shape) for block in model.encode_zeros("boxes", 2)] == [(1, 32)] * 2
    zero = model.train().untouched_streams([])
    zero.backward()
    assert all(parameter.grad is not None for parameter in model.connectors.parameters())


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({}, r"train:3: /a\.mp4: stream 'boxes' needs boxes beside the file"),
        ({"boxes": torch.zeros(5, 3)}, r"'boxes' have shape \(5, 3\); its connector needs \(any, 4\)"),
        ({"boxes": torch.zeros(4)}, r"'boxes' have shape \(4,\); its connector needs \(any, 4\)"),
        ({"boxes": torch.zeros(4, 4)}, "connector type 'region'.*4 boxes for 5 frames"),
    ],
)
def test_boxes_that_do_not_fit_are_named(extras, message):
    item = Item(torch.randn(3, 5, 16, 16), 3, extras=extras, name="train:3: /a.mp4")
    with pytest.raises(UserError, match=message):
        list(regions_model().encode_items("boxes", [item]))


@pytest.mark.parametrize(
    ("size", "value", "said"),
    [
        ("half", "no", 'half is "no"; expected true or false'),
        ("iterations", 2.5, "iterations is 2.5; expected a whole number"),
        ("clusters", True, "clusters is true; expected a whole number or null"),
        ("inner_size", 0, "inner_size 0 is less than 1"),
        ("image_size", -4, "image_size -4 is less than 1"),
        ("cluster_seed", 2**64, "cluster_seed"),
        ("roundes", 2, "did you mean 'rounds'"),
    ],
)
def test_impossible_sizes_are_named(size, value, said):
    with pytest.raises(ValueError, match=said):
        connector_config({"type": "region", size: value})
