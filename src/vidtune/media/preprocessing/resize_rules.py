"""Resize rules: how a frame of any size becomes a square of a fixed side.

Legend: T frames, H and W pixels of the source, S side of the square.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
import torch
from pydantic import AfterValidator

from vidtune.errors import UserError, foreign
from vidtune.media.preprocessing import transforms
from vidtune.registry import RESIZE_RULES

OVERSHOOT = 0.5
"""How far values may lie outside [0, 1]: bicubic filters overshoot at sharp edges."""


class ResizeSettings(Protocol):
    """Settings of a preprocessing that a resize rule reads: side S, filter, and how the long side is rounded."""

    @property
    def size(self) -> int: ...
    @property
    def interpolation(self) -> transforms.Interpolation: ...
    @property
    def antialias(self) -> bool: ...
    @property
    def long_side(self) -> transforms.LongSide: ...


@dataclass(frozen=True)
class ResizeRule:
    """A resize rule.

    Args:
        resize: function(uint8 RGB frames (T, H, W, 3), settings) -> float32 values in [0, 1], (3, T, S, S).
    """

    resize: Callable[[np.ndarray, ResizeSettings], torch.Tensor]


def _crop(pixels: np.ndarray, settings: ResizeSettings) -> torch.Tensor:
    return transforms.resize_and_crop(
        pixels, settings.size, settings.interpolation, settings.antialias, settings.long_side
    )


CROP = ResizeRule(_crop)

PARTS = {"crop": f"{__name__}:CROP"}
"""Resize rules of this package. ``crop``: the short side becomes S, then the centred square is cut out."""


def resized(rule: str, pixels: np.ndarray, settings: ResizeSettings) -> torch.Tensor:
    """Return frames as a rule resizes them. Shape: uint8 (T, H, W, 3) -> float32 (3, T, S, S)

    Raises:
        UserError: the rule fails, or gives another type, shape or range of values.
    """
    part = RESIZE_RULES[rule]
    with foreign(f"resize rule {rule!r} fails for pixels {pixels.shape}"):
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
