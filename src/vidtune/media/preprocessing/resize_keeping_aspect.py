"""Preprocessing that keeps the aspect ratio: the long side gets a fixed length, the short side a multiple of a cell.

The result is the picture alone. The tower adds the padding to a square and the missing frames of a short clip, on the
device. Their places follow from the shape, so that the number of tokens is known from the metadata of a file.

Legend: S length of the long side, K side of a cell, h and w pixels of the result (one of them S, both multiples of K),
T frames, H and W pixels of the source.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, PositiveInt, model_validator

from vidtune.media.clip_times import Part
from vidtune.media.preprocessing import transforms
from vidtune.media.preprocessing.frame_sampling import (
    ClipShapes,
    FrameCount,
    SamplingName,
    clip_indices,
    frame_chooser,
    frame_indices,
)
from vidtune.media.preprocessing.pixels import PixelPreprocessing, check_is_clip
from vidtune.media.probe import MediaInfo, probe
from vidtune.media.video import read_clip
from vidtune.registry import SAMPLING_RULES


class _AnyPixelPreprocessing(PixelPreprocessing):
    """Settings that images and clips share. Resizing gives whole grey levels, so both values of ``pixels`` are equal.

    Args:
        size: long side S in pixels.
        cell: side K of a cell in pixels. The short side is rounded up to whole cells, which stretches it a little.
    """

    size: PositiveInt = 448
    cell: PositiveInt = 28

    @model_validator(mode="after")
    def _whole_cells(self) -> "_AnyPixelPreprocessing":
        if self.size % self.cell:
            raise ValueError(f"size {self.size} is not a multiple of cell {self.cell}")
        return self

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of a picture after resizing."""
        cells = self.size // self.cell
        short = self.cell * -(-cells * min(height, width) // max(height, width))
        return (short, self.size) if width > height else (self.size, short)

    def sizes(self) -> list[tuple[int, int]]:
        """Return every possible height and width of a result."""
        lengths = range(self.cell, self.size + 1, self.cell)
        return [(n, self.size) for n in lengths] + [(self.size, n) for n in lengths[:-1]]

    def _size_of(self, info: MediaInfo | None) -> tuple[int, int]:
        """Return the height and width of the result; the largest without a picture."""
        return self.resized_size(info.height, info.width) if info and info.width else (self.size, self.size)

    def _resize(self, frames: np.ndarray) -> torch.Tensor:
        """Shape: uint8 RGB (T, H, W, 3) -> float32 or uint8 (3, T, h, w)"""
        height, width = self.resized_size(*frames.shape[1:3])
        if self.blind:
            resized = np.zeros((len(frames), height, width, 3), np.uint8)
        else:
            pictures = [Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in frames]
            resized = np.stack([np.asarray(picture) for picture in pictures])
        values = torch.from_numpy(resized).permute(3, 0, 1, 2).contiguous()
        if self.pixels == "uint8":
            return values
        return transforms.normalize(values.to(torch.float32).div_(255.0), self.mean, self.std)


class AnyPixelImagePreprocessing(_AnyPixelPreprocessing):
    """Still image -> (3, h, w)."""

    kind: Literal["any_pixel_image"] = "any_pixel_image"

    def output_shape(self, info: MediaInfo | None = None) -> tuple[int, ...]:
        return (3, *self._size_of(info))

    def output_shapes(self) -> list[tuple[int, ...]]:
        """Return every shape that ``load`` can return."""
        return [(3, *size) for size in self.sizes()]

    def read(self, path: str, part: Part | None = None) -> np.ndarray:
        """Read the pixels that ``apply`` takes. Shape: -> uint8 RGB (H, W, 3)"""
        return self._read_picture(path, part)

    def apply(self, pixels: np.ndarray, seed: int | None = None) -> torch.Tensor:
        """Shape: uint8 RGB (H, W, 3) -> float32 or uint8 (3, h, w)"""
        return self._resize(pixels[None])[:, 0]


class AnyPixelVideoPreprocessing(_AnyPixelPreprocessing):
    """Clip -> (3, up to T frames, h, w).

    Args:
        num_frames: maximum number of frames T, taken from the whole clip.
        sampling: frame sampling rule (:data:`vidtune.registry.SAMPLING_RULES`).
        flip_probability: probability that the whole clip is mirrored; the seed alone decides. Without a seed: never.
    """

    kind: Literal["any_pixel_video"] = "any_pixel_video"
    num_frames: PositiveInt = 8
    sampling: SamplingName = "per_second"
    flip_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0

    def output_shape(self, info: MediaInfo | None = None) -> tuple[int, ...]:
        if info is None or not info.num_frames:
            return (3, self.num_frames, *self._size_of(info))
        frames = len(clip_indices(self.sampling, info.times, self.num_frames))
        return (3, frames, *self._size_of(info))

    def output_shapes(self) -> Sequence[tuple[int, ...]]:
        """Return every shape that ``load`` can return."""
        numbers = SAMPLING_RULES[self.sampling].numbers(FrameCount(self.num_frames))
        return ClipShapes(numbers, tuple(self.sizes()))

    def frame_indices(self, info: MediaInfo) -> list[int]:
        """Return the indices of the frames that are taken of a file; time sentences of prompts tell of them."""
        return clip_indices(self.sampling, info.times, self.num_frames)

    def read(self, path: str, part: Part | None = None) -> np.ndarray:
        """Read the frames that ``apply`` takes. Shape: -> uint8 RGB (frames, H, W, 3)"""
        if not self.blind:
            return read_clip(path, frame_chooser(self.sampling, self.num_frames), as_probed=True, part=part)[0]
        info = probe(path).of_part(path, part)
        check_is_clip(path, info)
        frames = self.output_shape(info)[1]
        return np.zeros((frames, info.height, info.width, 3), np.uint8)

    def apply(self, pixels: np.ndarray, seed: int | None = None) -> torch.Tensor:
        """Shape: uint8 RGB (any number of frames, H, W, 3) -> float32 or uint8 (3, up to T frames, h, w)

        More frames than T are sampled evenly.
        """
        if len(pixels) > self.num_frames:
            pixels = pixels[frame_indices("linspace", len(pixels), self.num_frames)]
        x = self._resize(pixels)
        return transforms.horizontal_flip(x) if transforms.decide_flip(self.flip_probability, seed) else x
