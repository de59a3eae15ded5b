"""Spatio-Temporal Alignment Block: pixels to language-model tokens without a pretrained encoder.

A picture of any aspect ratio is placed on a square; only the cells that it covers become tokens. The tokens of a frame
are one context token, then row by row the tokens of its cells (2 x 2 patches), with a split token after every row.

Legend: B items, T frames, t frames of a chunk, C width, S side of the square in pixels, H/W patches of the square,
h/w pixels of a picture, F frames of all items, N tokens of an item.
Source: arXiv:2412.18609.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidtune.models.letterbox import check_picture, letterbox, letterbox_offset
from vidtune.models.towers.stab_blocks import (
    ClipAggregator,
    ContextFusion,
    LocalSpatioTemporalEncoding,
    SetAttention,
)
from vidtune.models.towers.token_grid import TokenGrid


@dataclass(frozen=True, kw_only=True)
class StabTowerConfig:
    """Sizes of the block; the defaults are the published ones.

    Args:
        image_size: side S of the square.
        patch_size: side of a patch in pixels.
        cell_size: number of patches along each side of a cell, which becomes one token.
        num_frames: largest number of frames of a clip; a multiple of ``chunk_frames``.
        chunk_frames: number of frames that exchange features and share a clip token.
        clip_heads: attention heads of the aggregator over a chunk.
        frame_heads: attention heads of the down-sampling and of the aggregator over a frame.
        reduction: factor by which the layers over time are narrower.
        missing_frame_patches: a frame that a short clip lacks is all zeros; it has the tokens of a square with this
            number of patches on each side.
        padding_color: colour around a picture, normalised as pixels are.
        dropout: dropout in the aggregator over a chunk and before the fused context token.
    """

    hidden_size: int = 1024
    image_size: int = 448
    patch_size: int = 14
    cell_size: int = 2
    num_frames: int = 8
    chunk_frames: int = 4
    clip_heads: int = 8
    frame_heads: int = 8
    mlp_ratio: int = 4
    reduction: float = 1.5
    missing_frame_patches: int = 16
    padding_color: tuple[float, float, float] = (0.0, 0.0, 0.0)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "padding_color", tuple(self.padding_color))
        if self.image_size % self.cell_pixels:
            raise ValueError(f"image_size {self.image_size} is not a multiple of a cell's {self.cell_pixels} pixels")
        if self.num_frames % self.chunk_frames:
            raise ValueError(f"num_frames {self.num_frames} is not a multiple of chunk_frames {self.chunk_frames}")
        for heads in (self.clip_heads, self.frame_heads):
            if self.hidden_size % heads:
                raise ValueError(f"hidden_size {self.hidden_size} does not divide into {heads} heads")

    @property
    def cell_pixels(self) -> int:
        """Side of a cell in pixels."""
        return self.patch_size * self.cell_size

    def input_shape(self) -> tuple[int, ...]:
        """A square clip: (3, T, S, S)."""
        return (3, self.num_frames, self.image_size, self.image_size)

    def for_frames(self, frames: int) -> dict[str, int]:
        """Settings for clips of up to so many frames.

        Raises:
            ValueError: they are not whole chunks.
        """
        chunks, rest = divmod(frames, self.chunk_frames)
        if rest:
            fitting = f"{chunks * self.chunk_frames} or " if chunks else ""
            raise ValueError(
                f"{frames} frames are not whole chunks of {self.chunk_frames}; give {fitting}"
                f"{(chunks + 1) * self.chunk_frames} frames"
            )
        return {"num_frames": frames} if frames != self.num_frames else {}

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """Number of tokens of a picture (3, h, w) or a clip (3, up to T frames, h, w).

        Raises:
            ValueError: the picture does not fit the square in whole cells, or there are too many frames.
        """
        frames, height, width = self._cells(shape)
        missing = 0 if len(shape) == 3 else self.num_frames - frames
        side = min(self.missing_frame_patches, self.image_size // self.patch_size) // self.cell_size
        return frames * (1 + height * (width + 1)) + missing * (1 + side * (side + 1))

    def token_grids(self, shape: tuple[int, ...]) -> list[TokenGrid]:
        """Token grid of every frame of the item; frames that a short clip lacks have none."""
        frames, height, width = self._cells(shape)
        pixels = self.image_size, self.cell_pixels
        top, left = (letterbox_offset(length, *pixels) // self.cell_pixels for length in shape[-2:])
        return [
            TokenGrid(
                first=frame * (1 + height * (width + 1)) + 1,
                stride=width + 1,
                height=height,
                width=width,
                top=top,
                left=left,
                side=self.image_size // self.cell_pixels,
            )
            for frame in range(frames)
        ]

    def _cells(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Number of frames, and of rows and columns of cells, of an item."""
        frames = shape[1] if len(shape) == 4 else 1
        if shape[0] != 3 or not 0 < frames <= self.num_frames:
            raise ValueError(f"this tower takes (3, h, w) or (3, 1 to {self.num_frames} frames, h, w), got {shape}")
        check_picture(shape[-2], shape[-1], self.image_size, self.cell_pixels)
        return frames, shape[-2] // self.cell_pixels, shape[-1] // self.cell_pixels

    def build(self) -> "StabTower":
        return StabTower(self)


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Rectangle of the patches that a frame covers on the square."""

    top: int
    left: int
    height: int
    width: int


class StabTower(nn.Module):
    """The block, for pictures and clips of any aspect ratio.

    Items of different shapes can run together; each has the result that it has alone. A clip with fewer frames than T
    is filled up with zeros. A picture skips all parts that mix frames.

    An item may also have the form of the published code: already on its square, with a fourth channel that is 1 where
    the picture is (one rectangle per frame) and 0 around it: (4, S, S) or (4, T, S, S), with any S.

    Shape: list of (3, h, w) or (3, frames, h, w) -> list of (N, C); a tensor of B such items -> (B, N, C)
    Raises:
        ValueError: pictures and clips are mixed, or the shape of an item does not fit the config.
    """

    takes_lists = True

    def __init__(self, config: StabTowerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.patch_embedding = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size, bias=False)
        self.local_encoding = LocalSpatioTemporalEncoding(width, int(width // config.reduction))
        self.clip_aggregator = ClipAggregator(width, config.clip_heads, config.mlp_ratio, config.dropout)
        self.downsampling = SetAttention(width, config.frame_heads)
        self.frame_query = nn.Parameter(torch.empty(width))
        self.frame_aggregator = SetAttention(width, config.frame_heads)
        self.fusion = ContextFusion(width, config.dropout)
        self.row_end = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.frame_query)
        nn.init.normal_(self.row_end)

    def forward(self, values: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        items = list(values)
        if len({item.dim() for item in items}) > 1:
            raise ValueError("pictures and clips cannot run together")
        squares, areas = zip(*(self._on_square(item) for item in items), strict=True)
        frames = torch.stack(squares).transpose(1, 2)
        tokens = self.encode(frames, [area for item in areas for area in item])
        num_frames = frames.shape[1]
        per_item = [torch.cat(tokens[first : first + num_frames]) for first in range(0, len(tokens), num_frames)]
        return torch.stack(per_item) if isinstance(values, Tensor) else per_item

    def encode(self, frames: Tensor, rectangles: Sequence[Rectangle]) -> list[Tensor]:
        """The tokens of every frame, in order.

        Args:
            frames: (B, T, 3, S, S), on their squares.
            rectangles: one per frame, B * T in total.
        """
        num_items, num_frames = frames.shape[:2]
        patches = self.patch_embedding(frames.flatten(0, 1))
        chunk_tokens = None
        if num_frames > 1:
            patches, chunk_tokens = self.mix_frames(patches, num_items)
        elif self.training:
            patches = patches + self._idle_parts()
        runs = [(rectangle, len(list(run))) for rectangle, run in groupby(rectangles)]
        cells = self.cells(patches, runs)
        cell_tokens = self.downsampling(cells.mean(dim=1), cells)
        grids = self.grids(cell_tokens, runs)
        frame_tokens = torch.cat([self.summarize(grid.flatten(1, 2)) for grid in grids])
        context = frame_tokens if chunk_tokens is None else self.fusion(chunk_tokens, frame_tokens)
        return list(self.assemble(context, grids))

    def mix_frames(self, patches: Tensor, num_items: int) -> tuple[Tensor, Tensor]:
        """Exchange features between the frames of each chunk.

        Shape: (F, C, H, W) -> (F, C, H, W), and for each frame the token of its chunk (F, C)
        """
        chunk_frames = self.config.chunk_frames
        chunks = patches.unflatten(0, (-1, chunk_frames)).transpose(1, 2)
        encoded = self.local_encoding(chunks, num_items)
        chunk_tokens = self.clip_aggregator(encoded.flatten(2).transpose(1, 2))
        mixed = patches + encoded.transpose(1, 2).flatten(0, 1)
        return mixed, chunk_tokens.repeat_interleave(chunk_frames, dim=0)

    def cells(self, patches: Tensor, runs: list[tuple[Rectangle, int]]) -> Tensor:
        """Patches of each cell that a frame covers; an odd last row or column is dropped. Shape: -> (M, m, C)"""
        size = self.config.cell_size
        cells, first = [], 0
        for area, count in runs:
            height, width = area.height // size * size, area.width // size * size
            block = patches[
                first : first + count, :, area.top : area.top + height, area.left : area.left + width
            ].unflatten(3, (-1, size))
            block = block.unflatten(2, (-1, size)).permute(0, 2, 4, 3, 5, 1)
            cells.append(block.flatten(0, 2).flatten(1, 2))
            first += count
        return torch.cat(cells)

    def grids(self, cell_tokens: Tensor, runs: list[tuple[Rectangle, int]]) -> list[Tensor]:
        """Cell tokens by frames that cover the same patches. Shape: (M, C) -> list of (frames, rows, columns, C)"""
        size = self.config.cell_size
        shapes = [(count, area.height // size, area.width // size) for area, count in runs]
        blocks = cell_tokens.split([count * rows * columns for count, rows, columns in shapes])
        return [block.view(*shape, -1) for block, shape in zip(blocks, shapes, strict=True)]

    def summarize(self, tokens: Tensor) -> Tensor:
        """One token for each frame. Shape: (frames, N, C) -> (frames, C)"""
        return self.frame_aggregator(self.frame_query.expand(len(tokens), -1), tokens)

    def assemble(self, context: Tensor, grids: list[Tensor]) -> Iterator[Tensor]:
        """Context token, rows and split tokens of each frame in order. Shape: -> (1 + rows * (columns + 1), C) each"""
        first = 0
        for grid in grids:
            count, rows, _, width = grid.shape
            ends = self.row_end.to(grid.dtype).expand(count, rows, 1, width)
            tokens = torch.cat([grid, ends], dim=2).flatten(1, 2)
            yield from torch.cat([context[first : first + count, None].to(grid.dtype), tokens], dim=1)
            first += count

    def _idle_parts(self) -> Tensor:
        """Zero with a graph to the parts that pictures skip, so that every weight has a gradient in every step."""
        parts = (self.local_encoding, self.clip_aggregator, self.fusion)
        return 0.0 * torch.stack([p.sum() for part in parts for p in part.parameters() if p.requires_grad]).sum()

    def _on_square(self, item: Tensor) -> tuple[Tensor, list[Rectangle]]:
        """Clip (3, T, S, S) of an item, and the rectangle that each frame covers; a picture is a clip of one frame."""
        config, clip = self.config, item if item.dim() == 4 else item.unsqueeze(1)
        if len(clip) == 4:
            return clip[:3], _covered(clip[3], config.patch_size, config.missing_frame_patches)
        config.num_tokens(tuple(item.shape))
        length = config.num_frames if item.dim() == 4 else 1
        color = torch.tensor(config.padding_color)
        square = letterbox(clip, config.image_size, config.cell_pixels, length, color)
        size = config.patch_size
        top, left = (letterbox_offset(n, config.image_size, config.cell_pixels) // size for n in clip.shape[-2:])
        covered = Rectangle(top, left, clip.shape[-2] // size, clip.shape[-1] // size)
        side = min(config.missing_frame_patches, config.image_size // size)
        return square, [covered] * clip.shape[1] + [Rectangle(0, 0, side, side)] * (length - clip.shape[1])


def _covered(masks: Tensor, patch_size: int, missing: int) -> list[Rectangle]:
    """Rectangle of patches for which each mask is 1; a mask of zeros belongs to a missing frame.

    Shape: masks (T, S, S)
    """
    patches = functional.avg_pool2d(masks.float().unsqueeze(1), patch_size).squeeze(1) > 0
    areas = []
    for frame in patches.cpu():
        rows, columns = frame.any(dim=1).nonzero().flatten(), frame.any(dim=0).nonzero().flatten()
        if not len(rows):
            side = min(missing, len(frame))
            areas.append(Rectangle(0, 0, side, side))
            continue
        top, left = int(rows[0]), int(columns[0])
        areas.append(Rectangle(top, left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1))
    return areas
