"""Where the tokens of one frame stand in the prompt, and which part of the picture each of them shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """The spatial tokens of one frame of a media item.

    Every token shows one cell of a square of ``side`` x ``side`` cells, to which the frame is padded; padding has no
    tokens. Cells are numbered row by row.

    Args:
        first: position of the top left token among the item's tokens.
        stride: tokens from the start of one row to the start of the next.
        height, width: rows and columns of tokens.
        top, left: cells of padding above and to the left.
        side: cells along each side of the square.
    """

    first: int
    stride: int
    height: int
    width: int
    top: int
    left: int
    side: int

    @property
    def last(self) -> int:
        """Position of the bottom right token among the item's tokens."""
        return self.first + (self.height - 1) * self.stride + self.width - 1

    def tokens(self) -> Tensor:
        """Positions of the tokens among those of the item, row by row. Shape: (height * width,) int64"""
        rows, columns = torch.arange(self.height), torch.arange(self.width)
        return (self.first + self.stride * rows[:, None] + columns).flatten()

    def cells(self) -> Tensor:
        """Numbers of the cells they show, in the same order. Shape: (height * width,) int64"""
        rows, columns = self.top + torch.arange(self.height), self.left + torch.arange(self.width)
        return (self.side * rows[:, None] + columns).flatten()


def whole_frames(grids: Sequence[TokenGrid], num_tokens: int) -> list[TokenGrid]:
    """The frames of an item whose tokens are all in the prompt, where its first ``num_tokens`` stand."""
    return [grid for grid in grids if grid.last < num_tokens]


class _KnowsPlaces(Protocol):
    def token_grids(self, shape: tuple[int, ...]) -> list[TokenGrid]: ...


@dataclass(frozen=True)
class FrameCount:
    """Counts the frames of an item that can be aligned with a teacher's; to be sent to other processes.

    Args:
        tower: sizes that tell where its tokens stand.
    """

    tower: _KnowsPlaces

    def __call__(self, shape: tuple[int, ...], num_tokens: int) -> int:
        """Of an item of this shape, the first ``num_tokens`` tokens of which are in the prompt."""
        return len(whole_frames(self.tower.token_grids(shape), num_tokens))
