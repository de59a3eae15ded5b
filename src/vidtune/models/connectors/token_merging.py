"""Token merging connector: groups of similar features become few tokens, and a linear stack maps each.

Legend: N features of an item, G of a group (a clip or a picture), M tokens that a group becomes, C tower width, D
language-model width, P crops of a picture.
Source: arXiv:2501.00574.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor, nn

from vidtune.models.connectors.merging import merge
from vidtune.models.connectors.mlp import MlpConnector, MlpConnectorConfig

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}


@dataclass(frozen=True, kw_only=True)
class TokenMergingConfig:
    """Sizes of a token merging connector; the defaults are the published ones, for clips of 4 frames of 196 features.

    Merging has no parameters, so it is done once per item and before features are stored.

    Args:
        input_size: tower width C.
        output_size: language-model width D.
        group_tokens: features of a group G, which are merged with each other alone. An item is any number of groups.
        tokens: tokens M that a group becomes.
        heads: features are compared by their mean over this many parts of the width.
        tiled: an item is a picture and then P crops of it, one group each. The extra ``tiles``, (rows, columns), says
            how the crops stand; their tokens are put in the order of rows of the whole picture, as if those of a group
            stood in a square. Rows and columns of 0: there are no crops.
        dtype: dtype in which features are compared: "float32", "bfloat16" or "float16"; None: theirs. It decides which
            of two almost equally similar features are merged.
    """

    input_size: int = 1024
    output_size: int = 3584
    group_tokens: int = 784
    tokens: int = 64
    heads: int = 16
    tiled: bool = False
    dtype: str | None = None

    tokenwise: ClassVar[bool] = True
    condensing: ClassVar[tuple[str, ...]] = ("group_tokens", "tokens", "heads", "tiled", "dtype")

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.name not in ("tiled", "dtype")):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is less than 1")
        if self.input_size % self.heads:
            raise ValueError(f"input_size {self.input_size} does not divide into {self.heads} heads")
        if self.group_tokens < self.tokens:
            raise ValueError(
                f"group_tokens {self.group_tokens} is less than tokens {self.tokens}; take larger pictures or fewer "
                "tokens"
            )
        if self.tiled and math.isqrt(self.tokens) ** 2 != self.tokens:
            raise ValueError(f"tokens {self.tokens} is no square number, which tiled needs")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; expected {', '.join(DTYPES)} or null")

    @property
    def extras(self) -> dict[str, tuple[int, ...]]:
        return {"tiles": (2,)} if self.tiled else {}

    @property
    def part_tokens(self) -> int | None:
        """Number of features that are condensed alone; None: an item is condensed as a whole."""
        return None if self.tiled else self.group_tokens

    def condensed_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the merged features. (N, C) -> (N / G * M, C)"""
        if len(shape) != 2 or not shape[0] or shape[0] % self.group_tokens:
            raise ValueError(f"features of shape {tuple(shape)}; it merges groups of {self.group_tokens} features")
        return (shape[0] // self.group_tokens * self.tokens, shape[1])

    def condense(self, features: Sequence[Tensor], extras: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
        """Merged features of items; the groups of all items are merged together.

        Shape: list of (N, C) -> list of (N / G * M, C)
        """
        numbers = [self.condensed_shape(tuple(block.shape))[0] // self.tokens for block in features]
        groups = [block.unflatten(0, (-1, self.group_tokens)) for block in features]
        dtype = None if self.dtype is None else DTYPES[self.dtype]
        merged = merge(groups, self.tokens, self.heads, dtype).split(numbers)
        if not self.tiled:
            return [block.flatten(0, 1) for block in merged]
        return [by_rows(block, more["tiles"]) for block, more in zip(merged, extras, strict=True)]

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """Number of embeddings: one for each merged feature."""
        return shape[0]

    def build(self) -> "TokenMerging":
        return TokenMerging(self)


class TokenMerging(nn.Module):
    """The stack that maps merged features; its parameters have the published names. Shape: (B, M, C) -> (B, M, D)"""

    def __init__(self, config: TokenMergingConfig) -> None:
        super().__init__()
        self.config = config
        self.mlp = MlpConnector(MlpConnectorConfig(input_size=config.input_size, output_size=config.output_size))

    def forward(self, features: Tensor) -> Tensor:
        mapped: Tensor = self.mlp(features)
        return mapped


def by_rows(groups: Tensor, tiles: Tensor) -> Tensor:
    """Tokens of a picture, and behind them those of its crops by rows of the whole picture.

    The number of rows is not read, so that nothing waits for a device.

    Args:
        tiles: numbers of rows and columns of crops.

    Shape: (1 + P, M, C), (2,) -> ((1 + P) * M, C)
    """
    crops, tokens, side = len(groups) - 1, groups.shape[1], math.isqrt(groups.shape[1])
    columns = tiles.to(groups.device, torch.int64)[1].clamp(min=1)
    number = torch.arange(crops * tokens, device=groups.device)
    line, place = number // (columns * side), number % (columns * side)
    crop = line // side * columns + place // side
    return torch.cat([groups[0], groups[1:].flatten(0, 1)[crop * tokens + line % side * side + place % side]])
