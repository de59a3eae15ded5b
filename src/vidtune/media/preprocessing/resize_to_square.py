"""Preprocessing that makes square frames by a resize rule: images and clips.

Legend: C colour channels (3), T frames, H and W pixels of the source, S side of the square output.
The settings are frozen values that are saved in the configuration of the processor.
"""

from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt, SerializerFunctionWrapHandler, model_serializer

from vidtune.media.preprocessing import transforms
from vidtune.media.preprocessing.frame_sampling import SamplingName, clip_indices, frame_chooser, frame_indices
from vidtune.media.preprocessing.pixels import PixelPreprocessing, check_is_clip
from vidtune.media.preprocessing.resize_rules import ResizeName, resized
from vidtune.media.probe import MediaInfo, probe
from vidtune.media.video import read_clip
from vidtune.registry import SAMPLING_RULES

Order = Literal["resize_then_normalize", "normalize_then_resize"]


class SquarePreprocessing(PixelPreprocessing):
    """Settings that all preprocessing to squares shares.

    ``order`` records the published order of the two steps. Filter weights sum to one, so both orders give the same
    values up to float rounding (below 1e-6), and the cheaper one is computed: resize first, normalise the small result.

    ``pixels: uint8`` differs from float32 by at most half a grey level (1/510 before normalising), and where bicubic
    interpolation gives values below black or above white, which grey levels cannot represent.

    Args:
        size: side S of the output in pixels.
        interpolation: filter of the resize.
        antialias: widen the filter when the picture is made smaller.
        resize: resize rule (:data:`vidtune.registry.RESIZE_RULES`). "crop": the short side becomes S, then the centre
            is cut out. "stretch": both sides become S by the nearest pixels.
    """

    size: PositiveInt = 224
    interpolation: transforms.Interpolation = "bilinear"
    antialias: bool = False
    order: Order = "resize_then_normalize"
    resize: ResizeName = "crop"

    @model_serializer(mode="wrap")
    def _without_later_settings(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``resize`` out where it is "crop": settings that were saved before it existed keep their hash."""
        settings: dict[str, Any] = handler(self)
        return {name: value for name, value in settings.items() if (name, value) != ("resize", "crop")}

    @property
    def long_side(self) -> transforms.LongSide:
        """How "crop" rounds the long side."""
        return "product_first"

    def _finish(self, x: torch.Tensor) -> torch.Tensor:
        """Convert values in [0, 1] to what ``pixels`` says. Shape: float32 (C, ...) -> float32 or uint8, the same"""
        if self.pixels == "uint8":
            return transforms.to_grey_levels(x)
        return transforms.normalize(x, self.mean, self.std)


class ImagePreprocessing(SquarePreprocessing):
    """Still image -> (3, S, S).

    Args:
        pad_to_square: before resizing, centre the picture on a square of the mean colour, so that no part is cut off.
    """

    kind: Literal["image"] = "image"
    interpolation: transforms.Interpolation = "bicubic"
    pad_to_square: bool = False

    def output_shape(self, info: MediaInfo | None = None) -> tuple[int, int, int]:
        """Return the shape of ``load``'s result, without decoding."""
        return (3, self.size, self.size)

    def output_shapes(self) -> list[tuple[int, ...]]:
        """Return every shape that ``load`` can return."""
        return [self.output_shape()]

    def read(self, path: str) -> np.ndarray:
        """Read the pixels that ``apply`` takes. Shape: -> uint8 RGB (H, W, 3)"""
        return self._read_picture(path)

    def apply(self, pixels: np.ndarray, seed: int | None = None) -> torch.Tensor:
        """Shape: uint8 RGB (H, W, 3) -> float32 or uint8 (3, S, S)"""
        if self.blind:
            pixels = np.zeros_like(pixels)
        if self.pad_to_square:
            pixels = transforms.pad_to_square(pixels, self.mean)
        return self._finish(resized(self.resize, pixels[None], self))[:, 0]


class VideoPreprocessing(SquarePreprocessing):
    """Clip -> (3, T, S, S), channel first, then time; a rule that repeats no frame gives fewer for a short clip.

    Args:
        num_frames: largest number of frames T, taken from the whole clip.
        sampling: frame sampling rule (:data:`vidtune.registry.SAMPLING_RULES`).
        flip_probability: probability that the whole clip is mirrored; the seed alone decides. Without a seed: never.
    """

    kind: Literal["video"] = "video"
    num_frames: PositiveInt = 8
    sampling: SamplingName = "linspace"
    order: Order = "normalize_then_resize"
    flip_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0

    @property
    def long_side(self) -> transforms.LongSide:
        # The two published orders belong to two libraries, which round the long side differently.
        return "ratio_first" if self.order == "normalize_then_resize" else "product_first"

    def output_shape(self, info: MediaInfo | None = None) -> tuple[int, int, int, int]:
        """Return the shape of ``load``'s result, without decoding; the largest one without ``info``."""
        frames = self.num_frames
        if not self._repeats and info is not None and info.num_frames:
            frames = len(clip_indices(self.sampling, info.times, frames))
        return (3, frames, self.size, self.size)

    def output_shapes(self) -> list[tuple[int, ...]]:
        """Return every shape that ``load`` can return."""
        fewest = self.num_frames if self._repeats else 1
        return [(3, frames, self.size, self.size) for frames in range(fewest, self.num_frames + 1)]

    @property
    def _repeats(self) -> bool:
        return SAMPLING_RULES[self.sampling].repeats

    def frame_indices(self, info: MediaInfo) -> list[int]:
        """Return the indices of the frames that are taken of a file; time sentences of prompts tell of them."""
        return clip_indices(self.sampling, info.times, self.num_frames)

    def read(self, path: str) -> np.ndarray:
        """Read the frames that ``apply`` takes. Shape: -> uint8 RGB (T, H, W, 3)"""
        if not self.blind:
            chooser = frame_chooser(self.sampling, self.num_frames)
            return read_clip(path, chooser, as_probed=not self._repeats)[0]
        info = probe(path)
        check_is_clip(path, info)
        return np.zeros((self.output_shape(info)[1], info.height, info.width, 3), np.uint8)

    def apply(self, pixels: np.ndarray, seed: int | None = None) -> torch.Tensor:
        """Shape: uint8 RGB (any number of frames, H, W, 3) -> float32 or uint8 (3, T, S, S)

        If the number of frames is not T, they are taken as the whole clip and sampled by the rule. Fewer than T stay as
        they are, unless the rule repeats frames.
        """
        if len(pixels) > self.num_frames or (len(pixels) < self.num_frames and self._repeats):
            pixels = pixels[frame_indices(self.sampling, len(pixels), self.num_frames)]
        if self.blind:
            pixels = np.zeros_like(pixels)
        x = self._finish(resized(self.resize, pixels, self))
        if transforms.decide_flip(self.flip_probability, seed):
            x = transforms.horizontal_flip(x)
        return x
