"""Resize rules: how a frame of any size becomes a square of a fixed side.

Legend: T frames, H and W pixels of the source, S side of the square.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
import torch
from pydantic import AfterValidator
from torch.nn import functional

from vidtune.errors import UserError, errors_of
from vidtune.media.preprocessing import transforms
from vidtune.registry import RESIZE_RULES

OVERSHOOT = 0.5
"""How far values may lie outside [0, 1]: bicubic filters overshoot at sharp edges."""


class ResizeSettings(Protocol):
    """Settings of a preprocessing that a resize rule reads: side S, filter, how the long side is rounded, colour."""

    @property
    def size(self) -> int: ...
    @property
    def interpolation(self) -> transforms.Interpolation: ...
    @property
    def antialias(self) -> bool: ...
    @property
    def long_side(self) -> transforms.LongSide: ...
    @property
    def mean(self) -> tuple[float, float, float]: ...


@dataclass(frozen=True)
class ResizeRule:
    """A resize rule.

    Args:
        resize: function(uint8 RGB frames (T, H, W, 3), settings) -> float32 values in [0, 1], (3, T, S, S).
        boxes: function(boxes (n, 4) as fractions of the frame, H, W, settings) -> the boxes as fractions of the square;
            None: the rule does not tell where a place of the frame goes.
    """

    resize: Callable[[np.ndarray, ResizeSettings], torch.Tensor]
    boxes: Callable[[np.ndarray, int, int, ResizeSettings], np.ndarray] | None = None


def _crop(pixels: np.ndarray, settings: ResizeSettings) -> torch.Tensor:
    return transforms.resize_and_crop(
        pixels, settings.size, settings.interpolation, settings.antialias, settings.long_side
    )


def _boxes_of_crop(boxes: np.ndarray, height: int, width: int, settings: ResizeSettings) -> np.ndarray:
    resized = transforms.resized_size(height, width, settings.size, settings.long_side)
    sides = np.array(resized[::-1] * 2, np.float32)
    offsets = [transforms.crop_offset(length, settings.size) for length in resized[::-1]] * 2
    return (boxes * sides - np.array(offsets, np.float32)) / np.float32(settings.size)


def _stretch(pixels: np.ndarray, settings: ResizeSettings) -> torch.Tensor:
    rows, columns = (_nearest(length, settings.size) for length in pixels.shape[1:3])
    return torch.from_numpy(pixels[:, rows][:, :, columns]).permute(3, 0, 1, 2).float().div_(255.0)


def _nearest(length: int, new_length: int) -> np.ndarray:
    """Places of the nearest pixels of a resized axis, as torch finds them. Shape: -> (new_length,)"""
    places = torch.arange(length, dtype=torch.float32)[None, None]
    return functional.interpolate(places, size=new_length, mode="nearest")[0, 0].long().numpy()


def _boxes_of_stretch(boxes: np.ndarray, height: int, width: int, settings: ResizeSettings) -> np.ndarray:
    return boxes


def _stretch_bicubic(pixels: np.ndarray, settings: ResizeSettings) -> torch.Tensor:
    return transforms.pil_bicubic(pixels, settings.size, settings.size).float().div_(255.0)


def _pad_bicubic(pixels: np.ndarray, settings: ResizeSettings) -> torch.Tensor:
    return _stretch_bicubic(transforms.pad_to_square(pixels, settings.mean), settings)


def _boxes_of_pad(boxes: np.ndarray, height: int, width: int, settings: ResizeSettings) -> np.ndarray:
    side = max(height, width)
    lengths = np.array([width, height] * 2, np.float32)
    offsets = np.array([(side - width) // 2, (side - height) // 2] * 2, np.float32)
    return (boxes * lengths + offsets) / np.float32(side)


CROP = ResizeRule(_crop, _boxes_of_crop)
STRETCH = ResizeRule(_stretch, _boxes_of_stretch)
STRETCH_BICUBIC = ResizeRule(_stretch_bicubic, _boxes_of_stretch)
PAD_BICUBIC = ResizeRule(_pad_bicubic, _boxes_of_pad)

PARTS = {name: f"{__name__}:{name.upper()}" for name in ("crop", "stretch", "stretch_bicubic", "pad_bicubic")}
"""Resize rules of this package. ``crop``: the short side becomes S, then the centred square is cut out. ``stretch``:
both sides become S by the nearest pixels; the aspect ratio is not kept, and ``interpolation`` does not matter.
``stretch_bicubic``: the same by Pillow's bicubic filter, in whole grey levels. ``pad_bicubic``: the picture is centred
on a square of the mean colour first."""


def resized(rule: str, pixels: np.ndarray, settings: ResizeSettings) -> torch.Tensor:
    """Return frames as a rule resizes them. Shape: uint8 (T, H, W, 3) -> float32 (3, T, S, S)

    Raises:
        UserError: the rule fails, or gives another type, shape or range of values.
    """
    part = RESIZE_RULES[rule]
    with errors_of(f"resize rule {rule!r} fails for pixels {pixels.shape}"):
        values = part.resize(pixels, settings)
    if not isinstance(values, torch.Tensor) or values.dtype != torch.float32:
        given = values.dtype if isinstance(values, torch.Tensor) else type(values).__name__
        raise UserError(f"resize rule {rule!r}: gives {given}; expected a float32 tensor")
    expected = (3, len(pixels), settings.size, settings.size)
    if tuple(values.shape) != expected:
        raise UserError(f"resize rule {rule!r}: gives shape {tuple(values.shape)}; expected {expected}")
    low, high = (float(bound) for bound in values.aminmax())
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
        raise UserError(f"resize rule {rule!r}: gives values from {low:g} to {high:g}; expected 0 to 1")
    return values


ResizeName = Annotated[str, AfterValidator(RESIZE_RULES.known)]
"""Type of a pydantic field: name of a resize rule."""
