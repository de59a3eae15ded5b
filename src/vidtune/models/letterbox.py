"""Letterbox: places pictures of any aspect ratio on a square, on the device, so that no padding is transferred to it.

Legend: T frames of a clip, H and W pixels of the picture, S side of the square, K side of a cell (both in pixels).
"""

import torch
from torch import Tensor


def letterbox_offset(length: int, side: int, cell: int) -> int:
    """Pixels of padding before a picture of this length: whole cells; an odd cell of padding goes after the picture."""
    return (side - length) // cell // 2 * cell


def letterbox(picture: Tensor, side: int, cell: int, num_frames: int, color: Tensor) -> Tensor:
    """Centre a clip on a square and append missing frames as zeros.

    Args:
        side, cell: S and K; H and W are multiples of K, at most S.
        num_frames: number of frames of the result.
        color: (3,) colour around the picture, normalised as the picture is.

    Shape: (3, T, H, W) -> (3, num_frames, S, S)
    """
    channels, frames, height, width = picture.shape
    canvas = picture.new_zeros(channels, num_frames, side, side)
    canvas[:, :frames] = color.to(picture).view(-1, 1, 1, 1)
    top, left = letterbox_offset(height, side, cell), letterbox_offset(width, side, cell)
    canvas[:, :frames, top : top + height, left : left + width] = picture
    return canvas


def check_picture(height: int, width: int, side: int, cell: int) -> None:
    """Raises ValueError unless a picture of this size fits a square of ``side`` in whole cells."""
    if height % cell or width % cell or not 0 < height <= side or not 0 < width <= side:
        raise ValueError(f"a picture of {height} x {width} pixels does not fit {side} x {side} in cells of {cell}")


def normalized_color(color: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[float, ...]:
    """A colour in grey levels (0 to 255), normalised as preprocessing does; one number per channel."""
    scaled = torch.tensor(color, dtype=torch.float32).div(255.0)
    return tuple(scaled.sub(torch.tensor(mean)).div(torch.tensor(std)).tolist())
