"""Preprocessing of large pictures: the whole picture as a small square, and squares that it is cut into.

Legend: S side of a square in pixels, H and W pixels of the picture, P crops.
Source: the grids and their choice are those of LLaVA-NeXT (llava-vl.github.io/blog/2024-01-30-llava-next).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt

from vidtune.media.clip_times import Part
from vidtune.media.preprocessing import transforms
from vidtune.media.preprocessing.resize_rules import ResizeName, resized
from vidtune.media.preprocessing.resize_to_square import SquarePreprocessing
from vidtune.media.probe import MediaInfo

TILES = "tiles"
"""Extra that the connector gets: rows and columns of the crops of an item, 0 and 0 without crops."""


class TilesPreprocessing(SquarePreprocessing):
    """Still image -> (1 + P, 3, 1, S, S): the whole picture, then its crops row by row, each a clip of one frame.

    The picture is resized to the grid of squares that keeps most of its pixels, in which its aspect ratio is not kept,
    and cut. A sample with several pictures gets each of them as one square, padded with the mean colour.

    Args:
        resize: resize rule of the whole picture; for the grid it is always Pillow's bicubic filter.
        largest: most rows, and most columns, of the grid; 0: the whole picture alone.
        pad_to_square: before resizing, centre the picture on a square of the mean colour. Only without a grid.
    """

    reads_extras: ClassVar[bool] = False

    kind: Literal["image_tiles"] = "image_tiles"
    resize: ResizeName = "stretch_bicubic"
    largest: NonNegativeInt = 6
    pad_to_square: bool = False

    def among(self, count: int) -> "TilesPreprocessing":
        """Return the settings that are used where a sample has ``count`` pictures."""
        return self if count == 1 else self.model_copy(update={"largest": 0, "pad_to_square": True})

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns into which a picture is cut; 0 and 0 if it is not cut.

        Of all grids the one in which most of the picture's pixels are kept when it is resized to fit into it; of equal
        ones that with least room beside the picture, and then the narrowest and lowest.
        """
        best, found = (-1, 0), (0, 0)
        for columns in range(1, self.largest + 1):
            for rows in range(1, self.largest + 1):
                wide, high = columns * self.size, rows * self.size
                scale = min(wide / width, high / height)
                kept = min(int(width * scale) * int(height * scale), width * height)
                if (kept, kept - wide * high) > best:
                    best, found = (kept, kept - wide * high), (rows, columns)
        return found

    def output_shape(self, info: MediaInfo | None = None) -> tuple[int, ...]:
        """Return the shape of the values of ``load_item``, without decoding; the largest one without ``info``."""
        known = info is not None and info.width and info.height
        rows, columns = self.grid(info.height, info.width) if info and known else (self.largest, self.largest)
        return (1 + rows * columns, 3, 1, self.size, self.size)

    def output_shapes(self) -> list[tuple[int, ...]]:
        """Return every shape that ``load_item`` can return."""
        sides = range(1, self.largest + 1)
        numbers = {1} | {1 + rows * columns for rows in sides for columns in sides}
        return [(number, 3, 1, self.size, self.size) for number in sorted(numbers)]

    def read(self, path: str, part: Part | None = None) -> np.ndarray:
        """Read the pixels that ``apply`` takes. Shape: -> uint8 RGB (H, W, 3)"""
        return self._read_picture(path, part)

    def apply(self, pixels: np.ndarray, seed: int | None = None) -> torch.Tensor:
        """Shape: uint8 RGB (H, W, 3) -> float32 or uint8 (1 + P, 3, 1, S, S)"""
        if self.blind:
            pixels = np.zeros_like(pixels)
        rows, columns = self.grid(*pixels.shape[:2])
        whole = transforms.pad_to_square(pixels, self.mean) if self.pad_to_square and not rows else pixels
        parts = [resized(self.resize, whole[None], self)]
        if rows:
            large = transforms.pil_bicubic(pixels[None], rows * self.size, columns * self.size)
            crops = large.unflatten(2, (rows, self.size)).unflatten(4, (columns, self.size))  # (3, 1, rows, S, cols, S)
            parts.append(crops.permute(0, 2, 4, 1, 3, 5).flatten(1, 3).float().div_(255.0))
        return self._finish(torch.cat(parts, dim=1)).transpose(0, 1).unsqueeze(2).contiguous()

    def load_item(
        self,
        path: str,
        extras: Mapping[str, np.ndarray],
        seed: int | None = None,
        frames: Sequence[str] = (),
        part: Part | None = None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Read a picture. Shape: -> float32 or uint8 (1 + P, 3, 1, S, S), and the extra ``tiles``, (2,) int64

        Raises:
            MediaError: the file cannot be read as a picture.
        """
        pixels = self.read(path, part)
        return self.apply(pixels, seed).numpy(), self.extras_of(pixels)

    def extras_of(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Return the extras of a picture that was read. Shape: uint8 (H, W, 3) -> ``tiles``, (2,) int64"""
        return {TILES: np.array(self.grid(*pixels.shape[:2]), np.int64)}

    def to_float(self, values: torch.Tensor) -> torch.Tensor:
        """Return the input of the tower. Shape: uint8 or float (..., 1 + P, 3, 1, S, S) -> float32, or as given"""
        if values.dtype != torch.uint8:
            return values
        x = values.to(torch.float32).div_(255.0)
        transforms.normalize(x.movedim(-4, 0), self.mean, self.std)
        return x
