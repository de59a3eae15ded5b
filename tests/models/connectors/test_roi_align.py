"""RoIAlign by products of matrices against a loop over points."""

import pytest
import torch
from torch import Tensor

from vidtune.models.connectors.roi_align import roi_align

SIDE, SIZE, SAMPLES = 6, 3, 2
BOXES = {
    "inside": (1.2, 0.7, 4.9, 5.1),
    "whole": (0.0, 0.0, 6.0, 6.0),
    "larger": (-3.0, -2.5, 9.5, 11.0),
    "outside": (7.5, 8.0, 9.0, 9.5),
    "partly outside": (-2.0, 4.5, 1.0, 8.0),
    "tiny": (2.31, 2.40, 2.33, 2.41),
    "point": (3.3, 2.6, 3.3, 2.6),
    "line": (1.0, 2.6, 5.0, 2.6),
    "on the border": (5.5, 5.5, 7.0, 7.0),
}


def value_at(level: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Shape: (C, S, S) -> (C,)"""
    side = level.shape[-1]
    if y < -1 or y > side or x < -1 or x > side:
        return torch.zeros(len(level))
    y, x = y.clamp(0, side - 1), x.clamp(0, side - 1)
    top, left = int(y), int(x)
    low, right = min(top + 1, side - 1), min(left + 1, side - 1)
    down, across = y - top, x - left
    upper = level[:, top, left] * (1 - across) + level[:, top, right] * across
    lower = level[:, low, left] * (1 - across) + level[:, low, right] * across
    return upper * (1 - down) + lower * down


def looped(maps: Tensor, boxes: Tensor) -> Tensor:
    crops = torch.zeros(len(maps), maps.shape[1], SIZE, SIZE)
    for number, (level, box) in enumerate(zip(maps, boxes, strict=True)):
        x1, y1, x2, y2 = box - 0.5
        steps = (torch.arange(SIZE * SAMPLES) + 0.5) / SAMPLES / SIZE
        for row, down in enumerate(steps):
            for column, across in enumerate(steps):
                found = value_at(level, y1 + (y2 - y1) * down, x1 + (x2 - x1) * across)
                crops[number, :, row // SAMPLES, column // SAMPLES] += found / SAMPLES**2
    return crops


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_crops_and_their_gradients_equal_a_loop_over_points(layout):
    torch.manual_seed(0)
    random = torch.rand(4, 4) * 12 - 3
    random[:, 2:] += random[:, :2].abs()
    boxes = torch.cat([torch.tensor(list(BOXES.values())), random])
    maps = torch.randn(len(boxes), 2, SIDE, SIDE).to(memory_format=layout)
    one, other = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    crops, wanted = roi_align(one, boxes, SIZE, SAMPLES), looped(other, boxes)
    torch.testing.assert_close(crops, wanted, atol=1e-5, rtol=0)
    push = torch.randn_like(crops)
    (crops * push).sum().backward()
    (wanted * push).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=0)


def test_a_box_without_area_reads_one_point():
    maps = torch.randn(1, 2, SIDE, SIDE)
    crops = roi_align(maps, torch.tensor([[3.5, 2.5, 3.5, 2.5]]), SIZE, SAMPLES)
    torch.testing.assert_close(crops, maps[:, :, 2:3, 3:4].expand_as(crops))


def test_a_box_outside_the_picture_reads_nothing():
    assert not roi_align(torch.ones(1, 2, SIDE, SIDE), torch.tensor([[7.6, 0, 9, 3]]), SIZE, SAMPLES).any()
