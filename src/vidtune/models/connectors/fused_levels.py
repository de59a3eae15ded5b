"""Fusion of tapped hidden states: each becomes a map of its own size, and maps of neighbouring sizes are mixed.

Legend: N frames, K levels from shallow to deep, G side of the tower's grid, S side of the map of a level, C width,
R channels that a level keeps of its own, Q channels that it takes of each neighbour (R + 2 Q = C).
Source: GPT4RoI (arXiv:2307.03601), multi-level region features.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtune.models.connectors.convolution import TiledConvolution, tile_kernels, worth_tiling
from vidtune.models.connectors.interpolation import resizing
from vidtune.models.initial import KaimingConv2d

ENLARGED = 3
"""Fewest levels for which the first convolution runs on the small grid: the maps of two are hardly larger than it."""


def rounded(values: Tensor, half: bool) -> Tensor:
    """The values with the precision of float16, in their own dtype; unchanged without ``half``."""
    return values.half().to(values.dtype) if half else values


class FuseBlock(nn.Module):
    """3x3 convolution, normalisation over groups of channels, ReLU. Shape: (N, C, S, S) -> the same"""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.conv = KaimingConv2d(width, width, 3, padding=1, bias=False)
        self.gn = nn.GroupNorm(groups, width)

    def forward(self, maps: Tensor) -> Tensor:
        return self.activate(self.conv(maps))

    def activate(self, convolved: Tensor) -> Tensor:
        """The block after its convolution."""
        return F.relu(self.gn(convolved), inplace=True)


class FusedLevels(nn.Module):
    """Maps of K levels out of K hidden states. Level i has side G * 2 ** (K - 1 - i): the shallowest is the largest.

    Every hidden state gets two channels of coordinates and a 1x1 convolution, and is resized to its size. In each
    round a level takes R channels of its own and Q of the level above and below (at the ends: of itself), and all
    levels pass the same block.

    Args:
        width: tower width C.
        levels: number of levels K.
        rounds: number of blocks, at least 1.
        groups: groups of channels that are normalised together.
        half: coordinates and resized maps have the precision of float16, in the order of the published code.

    Shape: (N, K, G, G, C) -> K of (N, C, S, S)
    """

    def __init__(self, width: int, levels: int, rounds: int, groups: int, half: bool = False) -> None:
        super().__init__()
        self.taken = width // 4
        self.kept = width - 2 * self.taken
        self.rounds_to_half = half
        self.input_conv = nn.ModuleList(nn.Conv2d(width + 2, width, 1) for _ in range(levels))
        self.fuse_convs = nn.ModuleList(FuseBlock(width, groups) for _ in range(rounds))

    def forward(self, states: Tensor, tiled: TiledConvolution | None = None) -> list[Tensor]:
        """Maps of all levels after the last round.

        Args:
            tiled: buffers of the convolutions, shared by the calls that get them; None: buffers of this call alone.
        """
        blocks = [cast(FuseBlock, block) for block in self.fuse_convs]
        in_tiles = worth_tiling(blocks[0].conv.weight, self.sides(states.shape[2]))
        if self.rounds_to_half or len(self.input_conv) < ENLARGED:
            maps = self.resized_states(states)
        else:
            maps, blocks = (
                self.first_round(states, torch.channels_last if in_tiles else torch.contiguous_format),
                blocks[1:],
            )
        levels, tiled = range(len(maps)), tiled or TiledConvolution()
        for block in blocks:
            if in_tiles:
                kernels = tile_kernels(block.conv.weight)
                maps = [block.activate(tiled(self.parts(maps, level), kernels)) for level in levels]
            else:
                maps = [block(torch.cat(self.parts(maps, level), dim=1)) for level in levels]
        return maps

    def sides(self, grid: int) -> list[int]:
        """Side of the map of each level."""
        return [grid * 2**above for above in reversed(range(len(self.input_conv)))]

    def sources(self, level: int) -> list[tuple[int, slice]]:
        """The level and the channels of each of the three parts that a level is mixed of."""
        own, middle, last = slice(self.kept), slice(self.kept, self.kept + self.taken), slice(-self.taken, None)
        return [(level, own), (min(level + 1, len(self.input_conv) - 1), last), (max(level - 1, 0), middle)]

    def resized_states(self, states: Tensor) -> list[Tensor]:
        """Maps of all levels before the first round. Shape: (N, K, G, G, C) -> K of (N, C, S, S)"""
        maps = []
        for conv, state, side in zip(self.input_conv, states.unbind(1), self.sides(states.shape[2]), strict=True):
            resized = _resize(state.permute(0, 3, 1, 2).float().contiguous(), side).to(state.dtype)
            maps.append(conv(with_coordinates(rounded(resized, self.rounds_to_half), self.rounds_to_half)))
        return maps

    def parts(self, maps: list[Tensor], level: int) -> list[Tensor]:
        """What a level is mixed of. Shape: K of (N, C, S, S) -> three of (N, c, S, S) with C channels in all"""
        side = maps[level].shape[-1]
        parts = [(source, maps[source][:, channels]) for source, channels in self.sources(level)]
        return [
            part if source == level else rounded(_resize(rounded(part, self.rounds_to_half), side), self.rounds_to_half)
            for source, part in parts
        ]

    def first_round(self, states: Tensor, order: torch.memory_format = torch.contiguous_format) -> list[Tensor]:
        """Maps after the first round; the convolution runs on the small grid.

        Before the first round every map is a resized grid of side G, and resizing, the 1x1 convolution and each tap of
        the 3x3 convolution are linear: the taps are applied to the grid, and what they give is resized and shifted.

        Args:
            order: order of the maps in memory; in the plain one convolutions have the fastest gradients on CPU.

        Shape: (N, K, G, G, C) -> K of (N, C, S, S)
        """
        grids = [
            conv(with_coordinates(state.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
            for conv, state in zip(self.input_conv, states.unbind(1), strict=True)
        ]
        block, grid = cast(FuseBlock, self.fuse_convs[0]), states.shape[2]
        sides, weight = self.sides(grid), block.conv.weight.permute(1, 2, 3, 0).flatten(1)  # (C, 3 * 3 * C)
        maps = []
        for level, side in enumerate(sides):
            rows: list[Tensor] = []
            matrices: list[Tensor] = []
            first = 0
            for source, channels in self.sources(level):
                small = grids[source][..., channels]
                taps = weight[first : first + small.shape[-1]]
                first += small.shape[-1]
                matrix = resizing(sides[source], grid, small.device)
                shifted = _shifted(resizing(side, sides[source], small.device) @ matrix).to(small.dtype)
                rows.append(_along_rows(small, taps, shifted))
                matrices.append(shifted)
            columns = torch.cat(matrices, dim=1)
            tapped = torch.cat(rows, dim=1)
            convolved = (columns @ tapped.flatten(2)).unflatten(2, (side, -1))
            convolved = convolved.permute(0, 3, 1, 2).contiguous(memory_format=order)
            maps.append(block.activate(convolved))
        return maps


def with_coordinates(maps: Tensor, half: bool = False) -> Tensor:
    """Two more channels: the place along the width and along the height, from -1 to 1.

    Shape: (N, C, S, S) -> (N, C + 2, S, S)
    """
    line = rounded(torch.linspace(-1, 1, maps.shape[-1], device=maps.device), half).to(maps.dtype)
    across = line.expand(len(maps), 1, len(line), len(line))
    return torch.cat([maps, across, across.mT], dim=1)


def _resize(maps: Tensor, side: int) -> Tensor:
    if maps.shape[-1] == side:
        return maps
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=True)


def _shifted(matrix: Tensor) -> Tensor:
    """A resizing matrix moved by -1, 0 and 1 points, with zeros outside, side by side. Shape: (S, G) -> (S, 3 G)"""
    padded = F.pad(matrix, (0, 0, 1, 1))
    return torch.cat([padded[:-2], matrix, padded[2:]], dim=1)


def _along_rows(grid: Tensor, taps: Tensor, matrix: Tensor) -> Tensor:
    """Grids with all taps of a convolution applied, resized and shifted along their rows; one part per vertical tap.

    Shape: (N, G, G, c), (c, 3 * 3 * C), (S, 3 G) -> (N, 3 G, S, C)
    """
    tapped = grid.flatten(0, 2) @ taps
    tapped = tapped.view(*grid.shape[:3], 3, 3, -1)  # (N, row, column, vertical, horizontal, C)
    tapped = tapped.permute(0, 3, 1, 4, 2, 5)
    return (matrix @ tapped.flatten(3, 4)).flatten(1, 2)
