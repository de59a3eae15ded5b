"""Bilinear interpolation as matrices: each output is a weighted mean of the two nearest inputs along an axis."""

import torch
from torch import Tensor


def weights_at(places: Tensor, size: int) -> Tensor:
    """Weights of ``size`` points 0, 1, ... for values between them; outside, the nearest point counts alone.

    Shape: (*) -> (*, size)
    """
    inside = places.clamp(0, size - 1)
    points = torch.arange(size, device=places.device, dtype=places.dtype)
    return (1 - (inside[..., None] - points).abs()).clamp(min=0)


def resizing(into: int, size: int, device: torch.device) -> Tensor:
    """Matrix that resizes an axis so that its first and last point stay (``align_corners``). Shape: (into, size)"""
    if into == size:
        return torch.eye(size, device=device)
    step = (size - 1) / max(into - 1, 1)
    return weights_at(torch.arange(into, device=device, dtype=torch.float32) * step, size)
