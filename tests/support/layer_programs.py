"""Tiny models with a layer program, and a connector that returns levels to add."""

from dataclasses import dataclass

import torch
from tiny_models import tiny_model
from torch import nn

from vidtune.models.config import VideoLMConfig
from vidtune.models.video_lm import VideoLM

DROP = [{"after": 1, "drop": ["video"], "keep": 0.5}, {"after": 3, "drop": ["video", "image"], "keep": 0.25}]
COMPACT = [{**step, "compact": True} for step in DROP]
ADD = [{"after": [1, 3], "add": "video"}]
GUIDED = [
    {"after": 2, "drop": ["video"], "keep": 0.5, "rule": "attention"},
    {"after": 3, "drop": ["video", "image"], "keep": 0.4},
    {"after": 4, "drop": ["video"], "keep": 0.2, "rule": "attention"},
]
GUIDED_COMPACT = [
    {"after": 1, "drop": ["video"], "keep": 0.75, "compact": True},
    {"after": 3, "drop": ["image", "video"], "keep": 0.4, "rule": "attention", "compact": True},
]
PROGRAMS = {
    "drop": DROP,
    "compact": COMPACT,
    "add": ADD,
    "both": [*ADD, *COMPACT],
    "guided": [*ADD, *GUIDED],
    "guided_compact": GUIDED_COMPACT,
}


@dataclass(frozen=True)
class LevelsConfig:
    """Connector that returns embeddings and two levels."""

    input_size: int
    output_size: int
    depth: int = 1

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        return shape[0]

    def build(self) -> nn.Module:
        return Levels(self)


class Levels(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(config.input_size, config.output_size) for _ in range(3))

    def forward(self, features):
        return torch.stack([part(features) for part in self.parts], dim=1)


def model_with(program, family="llama", **text) -> VideoLM:
    plain = tiny_model(family, num_hidden_layers=5, **text)
    given = plain.config.to_dict()
    adds = any("add" in step for step in program)
    connectors = {**plain.config.connectors, "levels": {"type": "levels", "input_size": 16, "output_size": 32}}
    streams = {**plain.config.streams}
    if adds:
        streams["video"] = {**streams["video"], "connector": "levels"}
    torch.manual_seed(0)
    return VideoLM(
        VideoLMConfig(**{**given, "connectors": connectors, "streams": streams, "layer_program": program})
    ).eval()
