"""Image and clip transforms on channel-first tensors, without torchvision.

Legend: C channels, T frames, H and W height and width in pixels, S side of the square output, K taps of the filter.
Functions on tensors take any number of dimensions before (H, W): images (C, H, W) and clips (C, T, H, W).
Resizing samples at pixel centres (``align_corners=False``). Without antialiasing, bilinear reads 2 and bicubic 4
neighbours per axis at any reduction, as torchvision 0.15 and PyTorchVideo do on tensors.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

Interpolation = Literal["bilinear", "bicubic"]
LongSide = Literal["product_first", "ratio_first"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_BICUBIC_A = -0.75


def resized_size(height: int, width: int, size: int, long_side: LongSide = "product_first") -> tuple[int, int]:
    """Return the height and width after the short side is resized to ``size``.

    The long side is truncated: ``size * long / short`` (torchvision) or ``long / short * size`` (PyTorchVideo). The two
    differ by one pixel if rounding takes the second below a whole number.
    """
    short, long = min(height, width), max(height, width)
    new_long = int(size * long / short) if long_side == "product_first" else math.floor(long / short * size)
    if height == width:
        new_long = size
    return (size, new_long) if height <= width else (new_long, size)


def crop_offset(length: int, size: int) -> int:
    """Return the first row or column of a centred crop; halves round to even."""
    return round((length - size) / 2.0)


def resize_short_side(
    x: torch.Tensor,
    size: int,
    interpolation: Interpolation = "bilinear",
    antialias: bool = False,
    long_side: LongSide = "product_first",
) -> torch.Tensor:
    """Resize so that the short side has ``size`` pixels. Values are not clamped: bicubic may overshoot.

    Shape: float (..., H, W) -> (..., H', W') with min(H', W') = size
    """
    target = resized_size(x.shape[-2], x.shape[-1], size, long_side)
    planes = x.reshape(1, -1, *x.shape[-2:])
    resized = functional.interpolate(planes, size=target, mode=interpolation, align_corners=False, antialias=antialias)
    return resized.reshape(*x.shape[:-2], *target)


def center_crop(x: torch.Tensor, size: int) -> torch.Tensor:
    """Cut the centred square. Shape: (..., H, W) -> (..., size, size)

    Raises:
        ValueError: the input is smaller than the crop.
    """
    height, width = x.shape[-2:]
    if height < size or width < size:
        raise ValueError(f"cannot crop {size} x {size} out of {height} x {width}")
    top, left = crop_offset(height, size), crop_offset(width, size)
    return x[..., top : top + size, left : left + size]


def pad_to_square(pixels: np.ndarray, mean: Sequence[float] = CLIP_MEAN) -> np.ndarray:
    """Centre the picture on a square filled with ``int(255 * mean)``. An odd pixel goes to the bottom or right.

    Shape: uint8 (..., H, W, C) -> (..., L, L, C) with L = max(H, W)
    """
    height, width = pixels.shape[-3:-1]
    if height == width:
        return pixels
    side = max(height, width)
    square = np.empty((*pixels.shape[:-3], side, side, pixels.shape[-1]), dtype=pixels.dtype)
    square[...] = [int(255 * value) for value in mean]
    top, left = (side - height) // 2, (side - width) // 2
    square[..., top : top + height, left : left + width, :] = pixels
    return square


def normalize(x: torch.Tensor, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD) -> torch.Tensor:
    """Subtract the mean and divide by the standard deviation of each channel, in place.

    The numbers are passed one by one: a tensor of them would have to be copied to the GPU, which waits for it.

    Shape: float (C, ..., H, W) -> the same tensor
    """
    for channel, its_mean, its_std in zip(x, mean, std, strict=True):
        channel.sub_(its_mean).div_(its_std)
    return x


def to_grey_levels(x: torch.Tensor) -> torch.Tensor:
    """Round values in [0, 1] to whole grey levels; values outside are clamped. ``x`` is overwritten.

    Shape: float (...) -> uint8 (...)
    """
    return x.mul_(255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)


def horizontal_flip(x: torch.Tensor) -> torch.Tensor:
    """Mirror left and right. Shape: (..., H, W) -> (..., H, W)"""
    return x.flip(-1)


def decide_flip(probability: float, seed: int | None) -> bool:
    """Whether the clip with this seed is mirrored; never if ``seed`` is None."""
    if seed is None or probability <= 0.0:
        return False
    return bool(np.random.default_rng(seed).random() < probability)


def pil_bicubic(pixels: np.ndarray, height: int, width: int) -> torch.Tensor:
    """Resize by Pillow's bicubic filter, whose support grows as the picture shrinks; the aspect ratio is not kept.

    Shape: uint8 RGB (T, H, W, 3) -> uint8 (3, T, height, width)
    """
    if pixels.shape[1:3] != (height, width):
        frames = [Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in pixels]
        pixels = np.stack([np.asarray(frame) for frame in frames])
    return torch.from_numpy(pixels).permute(3, 0, 1, 2)


def resize_and_crop(
    pixels: np.ndarray,
    size: int,
    interpolation: Interpolation = "bilinear",
    antialias: bool = False,
    long_side: LongSide = "product_first",
) -> torch.Tensor:
    """Scale to [0, 1], resize the short side and cut the centred square; only the pixels of the crop are computed.

    Equal to ``center_crop(resize_short_side(...))``. Without antialiasing, only the pixels that the filter reads are
    converted to float, so that the cost of a large frame is close to that of its output.

    Shape: uint8 (T, H, W, C) -> float32 (C, T, size, size)
    """
    frames = torch.from_numpy(np.ascontiguousarray(pixels))
    height, width = frames.shape[1:3]
    if antialias:
        channel_first = frames.permute(3, 0, 1, 2).to(torch.float32).div_(255.0)
        return center_crop(resize_short_side(channel_first, size, interpolation, True, long_side), size).contiguous()
    new_height, new_width = resized_size(height, width, size, long_side)
    rows, row_weights = _taps(height, new_height, crop_offset(new_height, size), size, interpolation)
    columns, column_weights = _taps(width, new_width, crop_offset(new_width, size), size, interpolation)
    first_column = int(columns.min())
    frames = frames[:, :, first_column : int(columns.max()) + 1]
    columns = columns - first_column

    output = torch.empty(frames.shape[3], frames.shape[0], size, size)
    for index, frame in enumerate(frames):
        lines = _combine(frame, 0, rows, row_weights)
        squares = _combine(lines.permute(2, 0, 1).contiguous(), 2, columns, column_weights)
        output[:, index] = squares
    return output.div_(255.0)


def _combine(x: torch.Tensor, dim: int, taps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of K slices along ``dim``. Shapes: taps and weights (K, S); ``dim`` gets length S."""
    shape = [1] * x.dim()
    shape[dim] = -1
    total = x.index_select(dim, taps[0]).to(torch.float32).mul_(weights[0].view(shape))
    for tap, weight in zip(taps[1:], weights[1:], strict=True):
        total.addcmul_(x.index_select(dim, tap).to(torch.float32), weight.view(shape))
    return total


@lru_cache(maxsize=64)
def _taps(
    length: int, new_length: int, first: int, count: int, interpolation: Interpolation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return positions (K, count) and weights (K, count) of outputs ``first .. first + count`` of a resized axis.

    Positions are rounded to float32 once, as the fused multiply-add inside ``torch.nn.functional.interpolate`` does:
    one more rounding would change a weight by 1e-4 on large pictures.
    """
    scale = np.float64(np.float32(length) / np.float32(new_length))
    centre = np.arange(first, first + count) + 0.5
    source = (scale * centre - 0.5).astype(np.float32)
    if interpolation == "bilinear":
        source = np.maximum(source, np.float32(0))
    base = np.floor(source)
    t = (source - base).astype(np.float64)
    if interpolation == "bilinear":
        offsets = [0, 1]
        weights = [1 - t, t]
    else:
        offsets = [-1, 0, 1, 2]
        weights = [_cubic_far(t + 1), _cubic_near(t), _cubic_near(1 - t), _cubic_far(2 - t)]
    positions = np.clip(base.astype(np.int64) + np.array(offsets)[:, None], 0, length - 1)
    return torch.from_numpy(positions), torch.from_numpy(np.array(weights, dtype=np.float32))


def _cubic_near(x: np.ndarray) -> np.ndarray:
    """Cubic convolution kernel for distances up to 1 (Keys 1981, a = -0.75)."""
    return ((_BICUBIC_A + 2) * x - (_BICUBIC_A + 3)) * x * x + 1


def _cubic_far(x: np.ndarray) -> np.ndarray:
    """Cubic convolution kernel for distances from 1 to 2."""
    return ((_BICUBIC_A * x - 5 * _BICUBIC_A) * x + 8 * _BICUBIC_A) * x - 4 * _BICUBIC_A
