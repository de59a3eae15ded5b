"""3x3 convolution with fewer products: Winograd's F(4 x 4, 3 x 3), for wide maps on a processor without a graph.

A tile of 6 x 6 inputs gives 4 x 4 outputs by 36 products for each pair of channels instead of 144. All additions run
along the channels, which stand last in memory.

Legend: N maps, H/W sides of a map, C channels in, D channels out.
Source: arXiv:1509.09308.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

WIDE = 256
"""Fewest channels: below it the additions take as long as the products that they save."""
MANY = 128
"""Fewest tiles of the maps that are convolved with one kernel: below it preparing the kernel takes too long."""
TOGETHER = 1024
"""Tiles that are multiplied together; bounds the memory."""
_KERNEL = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6),
           (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip


def worth_tiling(weight: Tensor, sides: Sequence[int]) -> bool:
    """Whether :class:`TiledConvolution` is faster for maps of these sides than torch.

    It depends on the sides, the weight and what runs, not on the number of maps: an item alone gives what it gives
    among others.
    """
    plain = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or weight.dtype != torch.float32
    enough = min(weight.shape[:2]) >= WIDE and sum(math.ceil(side / 4) ** 2 for side in sides) >= MANY
    return not plain and weight.device.type == "cpu" and enough


def tile_kernels(weight: Tensor) -> Tensor:
    """Kernels of tiles, of a 3x3 convolution. Shape: (D, C, 3, 3) -> (36, D, C)"""
    line = torch.tensor(_KERNEL)
    return (torch.kron(line, line) @ weight.flatten(2).flatten(0, 1).t()).unflatten(1, weight.shape[:2])


class TiledConvolution:
    """3x3 convolutions with padding 1 and without bias that share their buffers.

    Fresh memory would take a quarter of the time. So what a call returns is valid until the next call with maps of the
    same shape.
    """

    def __init__(self) -> None:
        self.buffers: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def __call__(self, parts: Sequence[Tensor], kernels: Tensor) -> Tensor:
        """Convolves maps that are given as parts of their channels.

        Shape: list of (N, c, H, W) with C channels in all, (36, D, C) -> (N, D, H, W)
        """
        number, _, height, width = parts[0].shape
        down, across = math.ceil(height / 4), math.ceil(width / 4)
        padded = self._padded(parts, 4 * down + 2, 4 * across + 2)
        result = self._buffer("result", number, 4 * down, 4 * across, kernels.shape[1])
        rows = [(image, 4 * row) for image in range(number) for row in range(down)]
        step = max(1, TOGETHER // across)
        for some in (rows[first : first + step] for first in range(0, len(rows), step)):
            tiles = self._buffer("tiles", 6, 6, len(some), across, kernels.shape[2])
            for place, (image, top) in enumerate(some):
                _read(padded[image, top : top + 6], tiles[:, :, place])
            products = self._buffer("products", 36, len(some) * across, kernels.shape[1])
            for tile, kernel, product in zip(tiles.view(36, -1, kernels.shape[2]), kernels, products, strict=True):
                torch.mm(tile, kernel.t(), out=product)
            found = products.view(6, 6, len(some), across, -1)
            for place, (image, top) in enumerate(some):
                _write(found[:, :, place], result[image, top : top + 4])
        return result[:, :height, :width].permute(0, 3, 1, 2)

    def _padded(self, parts: Sequence[Tensor], height: int, width: int) -> Tensor:
        """The parts side by side in a frame of zeros. Shape: list of (N, c, H, W) -> (N, height, width, C)"""
        (number, _, rows, columns), channels = parts[0].shape, sum(part.shape[1] for part in parts)
        padded = self._buffer("padded", number, height, width, channels)
        padded[:, rows + 1 :], padded[:, :, columns + 1 :] = 0, 0  # the last map of this size may have been larger
        first = 0
        for part in parts:
            last = first + part.shape[1]
            padded[:, 1 : rows + 1, 1 : columns + 1, first:last] = part.permute(0, 2, 3, 1)
            first = last
        return padded

    def _buffer(self, name: str, *shape: int) -> Tensor:
        if name in ("tiles", "products"):  # one buffer for all shapes
            size = math.prod(shape)
            if len(self.buffers.get((name, ()), torch.empty(0))) < size:
                self.buffers[name, ()] = torch.empty(size)
            return self.buffers[name, ()][:size].view(shape)
        if (name, shape) not in self.buffers:
            self.buffers[name, shape] = torch.zeros(shape)
        return self.buffers[name, shape]


def _read(rows: Tensor, tiles: Tensor) -> None:
    """Transforms a row of tiles. Shape: (6, W + 2, C) -> (6, 6, W / 4, C)"""
    lines = torch.empty_like(rows)
    _transform(rows.unbind(), lines.unbind())
    across = tiles.shape[2]
    for line, tile in zip(lines, tiles, strict=True):
        _transform([line[place::4][:across] for place in range(6)], tile.unbind())


def _write(products: Tensor, rows: Tensor) -> None:
    """Transforms a row of tiles back. Shape: (6, 6, W / 4, D) -> (4, W, D)"""
    lines = products.new_empty(4, *products.shape[1:])
    _transform_back(products.unbind(), lines.unbind())
    for line, row in zip(lines, rows, strict=True):
        _transform_back(line.unbind(), [row[place::4] for place in range(4)])


def _transform(given: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    torch.sub(given[4], given[2], alpha=5, out=into[0]).add_(given[0], alpha=4)
    even, odd = torch.sub(given[4], given[2], alpha=4), torch.sub(given[3], given[1], alpha=4)
    torch.add(even, odd, out=into[1])
    torch.sub(even, odd, out=into[2])
    torch.sub(given[4], given[2], out=even)
    torch.sub(given[3], given[1], out=odd)
    torch.add(even, odd, alpha=2, out=into[3])
    torch.sub(even, odd, alpha=2, out=into[4])
    torch.sub(given[5], given[3], alpha=5, out=into[5]).add_(given[1], alpha=4)


def _transform_back(given: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    near, near_difference = given[1] + given[2], given[1] - given[2]
    far, far_difference = given[3] + given[4], given[3] - given[4]
    torch.add(given[0], near, out=into[0]).add_(far)
    torch.add(near_difference, far_difference, alpha=2, out=into[1])
    torch.add(near, far, alpha=4, out=into[2])
    torch.add(near_difference, far_difference, alpha=8, out=into[3]).add_(given[5])
