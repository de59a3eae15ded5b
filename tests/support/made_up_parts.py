"""Made-up towers and connectors that use what the seams of items offer: any shape, extras, another number of tokens.

Legend: B items, R rows of an item, N features, M tokens, D language-model width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from vidtune.models.config import VideoLMConfig
from vidtune.models.video_lm import VideoLM
from vidtune.registry import CONNECTORS, TOWERS

WIDTH, TEXT_WIDTH, STANDARD_ROWS = 4, 32, 6


@dataclass(frozen=True, kw_only=True)
class RowsConfig:
    """Tower of items of any number of rows, (R, 3) -> (R, 4)."""

    hidden_size: int = WIDTH

    def input_shape(self) -> tuple[int, ...]:
        return (STANDARD_ROWS, 3)

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        return shape[0]

    def grid(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        return (1, 1, shape[0])

    def build(self) -> nn.Module:
        return nn.Linear(3, self.hidden_size)


@dataclass(frozen=True, kw_only=True)
class AdjacentConfig:
    """Connector that averages pairs of features, (B, N, C) -> (B, N // 2, D), and promises ``promise`` tokens more."""

    input_size: int = WIDTH
    output_size: int = TEXT_WIDTH
    promise: int = 0

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        return shape[0] // 2 + self.promise

    def build(self) -> nn.Module:
        return Adjacent(self)


class Adjacent(nn.Module):
    def __init__(self, config: AdjacentConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.input_size, config.output_size)

    def forward(self, features: Tensor) -> Tensor:
        pairs = features[:, : features.shape[1] // 2 * 2].unflatten(1, (-1, 2))
        return self.linear(pairs.mean(2))


@dataclass(frozen=True, kw_only=True)
class SpansConfig:
    """Connector that makes two tokens of an item: means of its features in two spans, given as extras (2, 2)."""

    takes_items: ClassVar[bool] = True
    extras: ClassVar[dict[str, tuple[int, ...]]] = {"spans": (2, 2)}

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        return 2

    def build(self) -> nn.Module:
        return Spans()


class Spans(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, TEXT_WIDTH)

    def forward(self, features: list[Tensor], extras: list[dict[str, Tensor]]) -> list[Tensor]:
        return [self.linear(span_means(block, more["spans"])) for block, more in zip(features, extras, strict=True)]


def span_means(block: Tensor, spans: Tensor) -> Tensor:
    """Means of features in spans, whose bounds are fractions of them. Shape: (N, C), (M, 2) -> (M, C)"""
    place = torch.arange(len(block), device=block.device) / len(block)
    inside = (place >= spans[:, :1]) & (place < spans[:, 1:])
    return inside.to(block) @ block / inside.sum(1, keepdim=True).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class LevelsConfig:
    """Connector that reads tapped states: the mean over levels of a linear layer each, (B, K, N, C) -> (B, N, D)."""

    levels: int
    input_size: int
    output_size: int = TEXT_WIDTH

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        return shape[1]

    def build(self) -> nn.Module:
        return Levels(self)


class Levels(nn.Module):
    def __init__(self, config: LevelsConfig) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(config.input_size, config.output_size) for _ in range(config.levels))

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack(
            [linear(level) for linear, level in zip(self.linears, features.unbind(1), strict=True)]
        ).mean(0)


@dataclass(frozen=True, kw_only=True)
class MergingConfig:
    """Connector that first averages every ``group`` features, without parameters, and then maps each: one token each.

    With ``spans`` it averages the spans that the extras of an item tell instead.
    """

    group: int = 2
    spans: bool = False
    output_size: int = TEXT_WIDTH

    tokenwise: ClassVar[bool] = True
    condensing: ClassVar[tuple[str, ...]] = ("group", "spans")

    @property
    def extras(self) -> dict[str, tuple[int, ...]]:
        return {"spans": (2, 2)} if self.spans else {}

    def condensed_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2 if self.spans else shape[0] // self.group, *shape[1:])

    def condense(self, features: list[Tensor], extras: list[dict[str, Tensor]]) -> list[Tensor]:
        if self.spans:
            return [span_means(block, more["spans"]) for block, more in zip(features, extras, strict=True)]
        return [
            block[: len(block) // self.group * self.group].unflatten(0, (-1, self.group)).mean(1) for block in features
        ]

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        return shape[0]

    def build(self) -> nn.Module:
        return nn.Linear(WIDTH, self.output_size)


@dataclass(frozen=True, kw_only=True)
class FaultyConfig:
    """Connector with one fault, by name; "extras" it declares without a way to get them."""

    fault: str
    output_size: int = TEXT_WIDTH

    @property
    def extras(self) -> dict[str, tuple[int, ...]]:
        return {"spans": (2, 2)} if self.fault == "extras" else {}

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        return {"count raises": lambda: shape[9], "count is text": lambda: "7"}.get(self.fault, lambda: shape[0])()

    def build(self) -> nn.Module:
        return Faulty(self.fault)


class Faulty(nn.Module):
    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.linear = fault, nn.Linear(WIDTH, TEXT_WIDTH)

    def forward(self, features: Tensor) -> object:
        good = self.linear(features)
        wrong = {"none": None, "items": good[:1], "dimensions": good[..., 0], "width": good[..., 1:], "list": [1, 2]}
        if self.fault == "memory":
            raise torch.OutOfMemoryError("full")
        return good @ good if self.fault == "raises" else wrong[self.fault]


PARTS = {
    "faulty": FaultyConfig,
    "merging": MergingConfig,
    "adjacent": AdjacentConfig,
    "spans": SpansConfig,
    "levels": LevelsConfig,
}


@contextmanager
def made_up_parts() -> Iterator[None]:
    """The parts are registered."""
    TOWERS.register("rows", RowsConfig)
    for name, part in PARTS.items():
        CONNECTORS.register(name, part)
    try:
        yield
    finally:
        TOWERS.unregister("rows")
        for name in PARTS:
            CONNECTORS.unregister(name)


def model_of(connector: str, **sizes: object) -> VideoLM:
    """A tiny model with one stream, "rows", of the tower "rows" and this connector."""
    text = AutoConfig.for_model(
        "llama", vocab_size=100, hidden_size=TEXT_WIDTH, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    config = VideoLMConfig(
        system="made_up",
        text_config=text,
        towers={"rows": {"type": "rows"}},
        connectors={"rows": {"type": connector, **sizes}},
        streams={"rows": {"tower": "rows", "connector": "rows"}},
    )
    return VideoLM(config).eval()
