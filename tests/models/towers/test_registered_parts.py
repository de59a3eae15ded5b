"""Towers and connectors of other packages: registered by name, they are parts of a model like our own."""

from dataclasses import dataclass

import pytest
import torch
from tiny_models import tiny_model
from torch import nn

from vidtune.models.config import VideoLMConfig
from vidtune.models.connectors.base import connector_config
from vidtune.models.towers.base import tower_config
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Item
from vidtune.registry import CONNECTORS, TOWERS


@dataclass(frozen=True)
class PairsConfig:
    """Tower: adjacent numbers become one feature. Connector: every second feature is kept."""

    hidden_size: int = 2

    def input_shape(self) -> tuple[int, ...]:
        return (12,)

    def num_tokens(self, shape) -> int:
        return shape[0] // 2

    def build(self) -> nn.Module:
        return Pairs()


class Pairs(nn.Module):
    def forward(self, values):
        return values.unflatten(1, (-1, 2))


@dataclass(frozen=True)
class EverySecondConfig(PairsConfig):
    def build(self) -> nn.Module:
        return EverySecond()


class EverySecond(nn.Module):
    def forward(self, features):
        return features[..., ::2, :].repeat_interleave(16, dim=-1)


@pytest.fixture
def registered():
    TOWERS.register("pairs", PairsConfig)
    CONNECTORS.register("every_second", EverySecondConfig)
    yield
    TOWERS.unregister("pairs")
    CONNECTORS.unregister("every_second")


def test_registered_parts_make_a_model(registered):
    config = VideoLMConfig(
        text_config=tiny_model().config.text_config,
        towers={"audio": {"type": "pairs"}},
        connectors={"audio": {"type": "every_second"}},
        streams={"audio": {"tower": "audio", "connector": "audio"}},
    )
    assert config.num_tokens("audio", (12,)) == 3
    model = VideoLM(config)
    [block] = model.encode_items("audio", [Item(torch.arange(12.0), 3)])
    assert block[:, ::16].tolist() == [[0, 1], [4, 5], [8, 9]]


@pytest.mark.parametrize(("build", "kind"), [(tower_config, "tower"), (connector_config, "connector")])
def test_unknown_types_and_sizes_are_refused(build, kind):
    with pytest.raises(ValueError, match=f"unknown {kind} type 'pairs'; known: "):
        build({"type": "pairs"})
    with pytest.raises(ValueError, match=f"{kind} '(clip|mlp)': .*unknown_size"):
        build({"type": {"tower": "clip", "connector": "mlp"}[kind], "unknown_size": 3})
