"""Preprocessing that makes square frames by a resize rule: images and clips.

Legend: C colour channels (3), T frames, H and W pixels of the source, S side of the square output.
The settings are frozen values that are saved in the configuration of the processor.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt, SerializerFunctionWrapHandler, model_serializer, model_validator

from vidtune.media.clip_times import ClipTimes, Part
from vidtune.media.preprocessing import transforms
from vidtune.media.preprocessing.frame_sampling import (
    ClipShapes,
    FrameCount,
    SamplingName,
    SamplingRule,
    clip_indices,
    frame_chooser,
    frame_indices,
)
from vidtune.media.preprocessing.pixels import PixelPreprocessing, check_is_clip
from vidtune.media.preprocessing.resize_rules import ResizeName, resized
from vidtune.media.probe import MediaInfo, probe
from vidtune.media.video import Keep, read_clip
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
            is cut out. "stretch": both sides become S by the nearest pixels; "stretch_bicubic": by Pillow's filter;
            "pad_bicubic": so, after the picture was centred on a square of the mean colour.
    """

    size: PositiveInt = 224
    interpolation: transforms.Interpolation = "bilinear"
    antialias: bool = False
    order: Order = "resize_then_normalize"
    resize: ResizeName = "crop"

    _later_settings: ClassVar[frozenset[str]] = frozenset({"resize"})

    @model_serializer(mode="wrap")
    def _without_later_settings(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave later settings out at their default: settings that were saved before they existed keep their hash."""
        settings: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {
            name: value
            for name, value in settings.items()
            if name not in self._later_settings or value != fields[name].default
        }

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

    def read(self, path: str, part: Part | None = None) -> np.ndarray:
        """Read the pixels that ``apply`` takes. Shape: -> uint8 RGB (H, W, 3)"""
        return self._read_picture(path, part)

    def apply(self, pixels: np.ndarray, seed: int | None = None) -> torch.Tensor:
        """Shape: uint8 RGB (H, W, 3) -> float32 or uint8 (3, S, S)"""
        if self.blind:
            pixels = np.zeros_like(pixels)
        if self.pad_to_square:
            pixels = transforms.pad_to_square(pixels, self.mean)
        return self._finish(resized(self.resize, pixels[None], self))[:, 0]


class VideoPreprocessing(SquarePreprocessing):
    """Clip -> (3, T, S, S), channel first, then time; a rule that repeats no frame gives fewer for a short clip.

    A long clip is decoded, resized and stored in blocks of frames, so that only its small result is held as a whole.

    Args:
        num_frames: largest number of frames T, taken from the whole clip.
        min_frames, multiple_of: smallest number of frames, and what the number is a multiple of; for sampling rules
            whose number of frames depends on the clip.
        sampling: frame sampling rule (:data:`vidtune.registry.SAMPLING_RULES`).
        folder_fps: frames per second of a folder of frames for which the annotation gives none; None: unknown.
        short_clips: what is made of a clip that has fewer than ``num_frames`` frames. "rule": what the sampling rule
            makes of it, mostly frames again. "zeros": each frame once, then zeros in the place of normalised values.
        flip_probability: probability that the whole clip is mirrored; the seed alone decides. Without a seed: never.
    """

    kind: Literal["video"] = "video"
    num_frames: PositiveInt = 8
    min_frames: PositiveInt = 1
    multiple_of: PositiveInt = 1
    sampling: SamplingName = "linspace"
    folder_fps: Annotated[float, Field(gt=0.0)] | None = None
    order: Order = "normalize_then_resize"
    flip_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    short_clips: Literal["rule", "zeros"] = "rule"

    _later_settings: ClassVar[frozenset[str]] = frozenset(
        {"resize", "min_frames", "multiple_of", "folder_fps", "short_clips"}
    )

    @model_validator(mode="after")
    def _bounds_of_frames(self) -> Self:
        if self.min_frames > self.num_frames:
            raise ValueError(f"min_frames {self.min_frames} is above num_frames {self.num_frames}")
        if SAMPLING_RULES[self.sampling].number is None and (self.min_frames, self.multiple_of) != (1, 1):
            raise ValueError(
                f"min_frames and multiple_of: sampling rule {self.sampling!r} does not read them; leave them out"
            )
        if self.short_clips == "zeros" and not (self._rule.is_fixed and self.pixels == "float32"):
            raise ValueError(
                "short_clips: zeros takes pixels: float32 and a sampling rule with a fixed number of frames"
            )
        return self

    @property
    def long_side(self) -> transforms.LongSide:
        # The two published orders belong to two libraries, which round the long side differently.
        return "ratio_first" if self.order == "normalize_then_resize" else "product_first"

    def output_shape(self, info: MediaInfo | None = None) -> tuple[int, int, int, int]:
        """Return the shape of ``load``'s result, without decoding; the largest one without ``info``."""
        frames = self.num_frames
        if not self._rule.is_fixed and info is not None and info.num_frames:
            frames = len(clip_indices(self.sampling, info.times, self._wanted))
        return (3, frames, self.size, self.size)

    def output_shapes(self) -> Sequence[tuple[int, ...]]:
        """Return every shape that ``load`` can return."""
        return ClipShapes(self._rule.numbers(self._wanted), ((self.size, self.size),))

    @property
    def _rule(self) -> SamplingRule:
        return SAMPLING_RULES[self.sampling]

    @property
    def _wanted(self) -> FrameCount:
        return FrameCount(self.num_frames, self.min_frames, self.multiple_of)

    def frame_indices(self, info: MediaInfo) -> list[int]:
        """Return the indices of the frames that are taken of a file; time sentences of prompts tell of them."""
        return clip_indices(self.sampling, info.times, self._wanted_of(info.num_frames))

    def _wanted_of(self, num_frames_total: int) -> FrameCount:
        """How many frames of a clip are wanted."""
        if self.short_clips == "zeros" and 0 < num_frames_total < self.num_frames:
            return FrameCount(num_frames_total)
        return self._wanted

    def _choose(self, times: ClipTimes) -> list[int]:
        return clip_indices(self.sampling, times, self._wanted_of(times.num_frames))

    def read(self, path: str, part: Part | None = None) -> np.ndarray:
        """Read the frames that ``apply`` takes. Shape: -> uint8 RGB (T, H, W, 3)"""
        if not self.blind:
            return self._read_kept(path, part, None)
        info = probe(path).of_part(path, self.part_read(part))
        check_is_clip(path, info)
        frames = self.output_shape(info)[1]
        return np.zeros((frames, info.height, info.width, 3), np.uint8)

    def load(self, path: str, seed: int | None = None, part: Part | None = None) -> np.ndarray:
        """Read a file and make its tensor, in blocks of frames. Shape: -> float32 or uint8 (3, T, S, S)"""
        if self.blind:
            return super().load(path, seed, part)

        def made(pixels: np.ndarray) -> np.ndarray:
            return self._made(pixels, seed).movedim(1, 0).numpy()

        return self._filled(np.moveaxis(self._read_kept(path, part, made), 1, 0))

    def _filled(self, values: np.ndarray) -> np.ndarray:
        """Fill a short clip up with zeros, if it is to be. Shape: (3, n, S, S) -> (3, T, S, S), or the same"""
        missing = self.num_frames - values.shape[1] if self.short_clips == "zeros" else 0
        return np.pad(values, ((0, 0), (0, max(0, missing)), (0, 0), (0, 0)))

    def part_read(self, part: Part | None) -> Part | None:
        """Return what is read of a file, with the frame rate of folders."""
        return part if self.folder_fps is None else replace(part or Part(), folder_fps=self.folder_fps)

    def _read_kept(self, path: str, part: Part | None, keep: Keep | None) -> np.ndarray:
        chooser = frame_chooser(self.sampling, self._wanted) if self.short_clips == "rule" else self._choose
        read = self.part_read(part)
        return read_clip(path, chooser, as_probed=not self._rule.is_fixed, part=read, keep=keep)[0]

    def apply(self, pixels: np.ndarray, seed: int | None = None) -> torch.Tensor:
        """Shape: uint8 RGB (any number of frames, H, W, 3) -> float32 or uint8 (3, T, S, S)

        If the rule does not give this number of frames, they are taken as the whole clip and sampled by the rule.
        """
        if len(pixels) not in self._rule.numbers(self._wanted):
            pixels = pixels[frame_indices(self.sampling, len(pixels), self._wanted_of(len(pixels)))]
        if self.blind:
            pixels = np.zeros_like(pixels)
        made = self._made(pixels, seed)
        return made if self.short_clips == "rule" else torch.from_numpy(self._filled(made.numpy()))

    def _made(self, pixels: np.ndarray, seed: int | None) -> torch.Tensor:
        """Resize and convert frames. Shape: uint8 RGB (n, H, W, 3) -> float32 or uint8 (3, n, S, S)"""
        x = self._finish(resized(self.resize, pixels, self))
        if transforms.decide_flip(self.flip_probability, seed):
            x = transforms.horizontal_flip(x)
        return x
