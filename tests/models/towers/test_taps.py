"""Streams that read several hidden states of a tower, which several streams may share."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from made_up_parts import made_up_parts
from tiny_models import TOWER, tiny_model
from tiny_tokenizers import tiny_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vidtune.checkpoints.fit_processor import build_processor
from vidtune.models.config import VideoLMConfig
from vidtune.models.towers.clip import ClipTowerConfig
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Item
from vidtune.processing.stream_settings import Measure, Measured
from vidtune.registry import SYSTEMS

TAPS = [2, 0, 1]
PLAIN = tiny_model().config.streams["image"]["connector"]


@pytest.fixture(autouse=True)
def parts():
    with made_up_parts():
        yield


def config(**stream: object) -> VideoLMConfig:
    plain = tiny_model().config
    return VideoLMConfig(
        system=plain.system,
        text_config=plain.text_config,
        towers=plain.towers,
        connectors={**plain.connectors, "levels": {"type": "levels", "levels": 3, "input_size": TOWER["hidden_size"]}},
        streams={**plain.streams, "levels": {"tower": "image", "connector": "levels", "taps": TAPS, **stream}},
    )


def test_tapped_states_are_those_of_the_tower():
    torch.manual_seed(0)
    model = VideoLM(config()).eval()
    tower, pixels = model.towers["image"], torch.randn(2, 3, 16, 16)
    states = list(tower.hidden_states(pixels))
    features = model.tower_features("levels", pixels)
    tokens = tower.config.tokens_per_frame
    assert features.shape == (2, 3, tokens, TOWER["hidden_size"])
    for level, tap in enumerate(TAPS):
        assert torch.equal(features[:, level], states[tap][:, -tokens:])
    assert torch.equal(model.tower_features("image", pixels), features[:, TAPS.index(1)])
    clips = torch.randn(2, 3, 8, 16, 16)
    plain = ClipTowerConfig(**TOWER).build()
    assert plain(clips, taps=(1,)).shape == (2, 1, 8 * tokens, TOWER["hidden_size"])


def test_a_stream_with_taps_becomes_tokens_like_any_other(tmp_path):
    model = VideoLM(config()).eval()
    shape = model.config.tower("image").input_shape()
    assert model.config.feature_shape("levels", shape) == (3, 4, 16)
    items = [Item(torch.randn(shape), 4, Measured(4)) for _ in range(3)]
    blocks = list(model.encode_items("levels", items))
    stored = model.tower_features("levels", items[1].values[None])[0]
    mixed = [items[0], Item(stored, 4, Measured(4), encoded=True), items[2]]
    for block, again in zip(blocks, model.encode_items("levels", mixed), strict=True):
        torch.testing.assert_close(block, again, atol=1e-6, rtol=0)
    assert model.train().untouched_streams(["image", "video"]).requires_grad
    model.save_pretrained(tmp_path)
    assert VideoLM.from_pretrained(tmp_path).config.streams["levels"]["taps"] == TAPS


def test_stored_features_of_a_stream_with_taps_are_counted(monkeypatch):
    made = config()
    system = SYSTEMS[made.system]
    steps = system.architecture.preprocessing(made)
    architecture = replace(system.architecture, preprocessing=lambda _: {**steps, "levels": steps["image"]})
    monkeypatch.setitem(SYSTEMS.loaded, made.system, replace(system, architecture=architecture))
    settings = build_processor(made, tiny_tokenizer(legacy=False)).streams["levels"]
    assert isinstance(settings.num_tokens, Measure) and settings.num_tokens.taps == tuple(TAPS)
    assert settings.all_alike and not settings.is_measured
    assert settings.measure((3, 16, 16)) == Measured(4)
    assert settings.measure_features((3, 4, 16)) == Measured(4, None, 0.0)
    with pytest.raises(ValueError, match="2 dimensions where the tower gives 3"):
        settings.measure_features((4, 16))


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ({"taps": [0, 3]}, r"stream 'levels': taps \[3\]: its tower has hidden states 0 to 2"),
        ({"taps": [-1]}, r"taps \[-1\]"),
        ({"connector": PLAIN}, "its connector reads one hidden state only"),
    ],
)
def test_taps_that_cannot_be_are_refused(stream, message):
    with pytest.raises(ValueError, match=message):
        config(**stream)


def test_a_tower_without_hidden_states_has_no_taps():
    with pytest.raises(ValueError, match=r"taps \[2, 0, 1\]: a tower of type 'rows' has none"):
        VideoLMConfig(
            text_config=tiny_model().config.text_config,
            towers={"rows": {"type": "rows"}},
            connectors={"rows": {"type": "levels", "levels": 3, "input_size": 4}},
            streams={"rows": {"tower": "rows", "connector": "rows", "taps": TAPS}},
        )


class Alive(TorchDispatchMode):
    """Counts the tensors of one shape that exist at the same time."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.now, self.most, self.known = shape, 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tuple(tensor.shape) == self.shape:
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.known.add(storage._cdata)
                    self.now += 1
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._gone, storage._cdata)
        return result

    def _gone(self, key: int) -> None:
        self.known.discard(key)
        self.now -= 1


@pytest.mark.parametrize("taps", [(), (2, 5)])
@torch.no_grad()
def test_a_tower_keeps_the_wanted_states_only(taps):
    most = []
    for layers in (6, 18):
        tower = ClipTowerConfig(**{**TOWER, "num_hidden_layers": layers}).build()
        with Alive((2, 5, TOWER["hidden_size"])) as alive:
            tower(torch.randn(2, 3, 16, 16), taps=taps)
        gc.collect()
        most.append(alive.most)
    assert most[0] == most[1] <= 8 + len(taps)


@pytest.mark.parametrize(("layers", "layer"), [(1, -2), (3, -5)])
def test_a_feature_layer_that_is_not_there_names_tower_and_least_size(layers: int, layer: int) -> None:
    towers = {"video": {"type": "clip", "num_hidden_layers": layers, "feature_layer": layer}}
    config = VideoLMConfig(text_config={"model_type": "llama"}, towers=towers)
    with pytest.raises(ValueError, match=rf"towers\.video: .*num_hidden_layers {layers}; .* at least {-layer}"):
        config.tower("video")
