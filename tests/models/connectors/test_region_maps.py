"""Maps of several levels: each fast way against the plain one."""

import pytest
import torch
from torch import Tensor, nn

from vidtune.models.connectors import convolution
from vidtune.models.connectors.convolution import TiledConvolution, tile_kernels, worth_tiling
from vidtune.models.connectors.fused_levels import FusedLevels

WIDTH, GRID = 8, 3


def levels_of(levels: int = 3, rounds: int = 2) -> FusedLevels:
    torch.manual_seed(0)
    built = FusedLevels(WIDTH, levels, rounds, groups=2)
    for block in built.fuse_convs:
        nn.init.normal_(block.gn.weight, mean=1, std=0.3)
        nn.init.normal_(block.gn.bias, std=0.3)
    return built


def plain(module: FusedLevels, states: Tensor) -> list[Tensor]:
    maps = module.resized_states(states)
    for block in module.fuse_convs:
        maps = [block(torch.cat(module.parts(maps, level), dim=1)) for level in range(len(maps))]
    return maps


@pytest.mark.parametrize("levels", [1, 3])
def test_the_first_round_on_the_small_grid_equals_the_round_on_large_maps(levels):
    module, states = levels_of(levels), torch.randn(2, levels, GRID, GRID, WIDTH)
    found, gradients = [], []
    for way in (module, lambda states: plain(module, states)):
        given = states.clone().requires_grad_()
        maps = way(given)
        module.zero_grad()
        sum(one.square().sum() for one in maps).backward()
        found.append(maps)
        gradients.append([given.grad, *(parameter.grad.clone() for parameter in module.parameters())])
    assert [tuple(one.shape) for one in found[0]] == [
        (2, WIDTH, GRID * 2**above, GRID * 2**above) for above in reversed(range(levels))
    ]
    for one, wanted in zip(found[0], found[1], strict=True):
        torch.testing.assert_close(one, wanted, atol=1e-5, rtol=1e-5)
    for one, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(one, wanted, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("together", [1, 5, 1000])
@pytest.mark.parametrize("sides", [(4, 8), (7, 13), (1, 2)])
def test_a_convolution_in_tiles_equals_that_of_torch(monkeypatch, together, sides):
    monkeypatch.setattr(convolution, "TOGETHER", together)
    torch.manual_seed(0)
    conv, maps = nn.Conv2d(6, 5, 3, padding=1, bias=False), torch.randn(2, 6, *sides)
    tiled = TiledConvolution()
    with torch.no_grad():
        kernels = tile_kernels(conv.weight)
        tiled([torch.randn_like(maps)], kernels)  # leaves something in the buffers
        found = tiled([maps[:, :4], maps[:, 4:]], kernels)
        torch.testing.assert_close(found, conv(maps), atol=1e-5, rtol=1e-5)


def test_smaller_maps_after_larger_ones_have_zeros_around_them():
    torch.manual_seed(0)
    conv, tiled = nn.Conv2d(3, 2, 3, padding=1, bias=False), TiledConvolution()
    with torch.no_grad():
        kernels = tile_kernels(conv.weight)
        for height, width in ((8, 8), (7, 7), (5, 8), (5, 5), (8, 6)):
            maps = torch.randn(1, 3, height, width)
            torch.testing.assert_close(tiled([maps], kernels), conv(maps), atol=1e-5, rtol=1e-5)


def test_maps_in_tiles_equal_plain_maps(monkeypatch):
    monkeypatch.setattr(convolution, "WIDE", 1)
    monkeypatch.setattr(convolution, "MANY", 1)
    module, states = levels_of(rounds=3), torch.randn(2, 3, GRID, GRID, WIDTH)
    assert not worth_tiling(module.fuse_convs[0].conv.weight, [12, 6, 3])  # with gradients it is not
    with torch.no_grad():
        assert worth_tiling(module.fuse_convs[0].conv.weight, [12, 6, 3])
        for one, wanted in zip(module(states), plain(module, states), strict=True):
            torch.testing.assert_close(one, wanted, atol=1e-4, rtol=1e-4)
