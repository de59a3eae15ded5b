"""Token grid: positions of the tokens of one frame in the prompt, and the part of the picture that each token shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """The spatial tokens of one frame of a media item.

    The frame is padded to a square of ``side`` x ``side`` cells, which are numbered row by row. Every token shows one
    cell; padding has no tokens.

    Args:
        first: position of the top left token among the tokens of the item.
        stride: number of tokens from the start of one row to the start of the next.
        height, width: number of rows and columns of tokens.
        top, left: number of padding cells above and to the left.
        side: number of cells along each side of the square.
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
        """Position of the bottom right token among the tokens of the item."""
        return self.first + (self.height - 1) * self.stride + self.width - 1

    def tokens(self) -> Tensor:
        """Positions of the tokens among the tokens of the item, row by row. Shape: (height * width,) int64"""
        rows, columns = torch.arange(self.height), torch.arange(self.width)
        return (self.first + self.stride * rows[:, None] + columns).flatten()

    def cells(self) -> Tensor:
        """Number of the cell that each token shows, in the same order. Shape: (height * width,) int64"""
        rows, columns = self.top + torch.arange(self.height), self.left + torch.arange(self.width)
        return (self.side * rows[:, None] + columns).flatten()


def whole_frames(grids: Sequence[TokenGrid], num_tokens: int) -> list[TokenGrid]:
    """The frames of an item whose tokens are all among its first ``num_tokens`` tokens, which are in the prompt."""
    return [grid for grid in grids if grid.last < num_tokens]


class _HasTokenGrids(Protocol):
    def token_grids(self, shape: tuple[int, ...]) -> list[TokenGrid]: ...


@dataclass(frozen=True)
class FrameCount:
    """Function that counts the frames of an item that can be aligned with a teacher; can be sent to other processes.

    Args:
        tower: config of a tower that has ``token_grids``.
    """

    tower: _HasTokenGrids

    def __call__(self, shape: tuple[int, ...], num_tokens: int) -> int:
        """Number of frames of an item of this shape, of which the first ``num_tokens`` tokens are in the prompt."""
        return len(whole_frames(self.tower.token_grids(shape), num_tokens))
