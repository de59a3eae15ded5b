"""Region tokens per second: the region connector against a loop over boxes and levels that gives the same numbers.

    python benchmarks/regions.py [--boxes 9] [--looped 2] [--width 1024] [--threads 1] [--train]

Weights, features and boxes are random, sizes the published ones: width 1024, 16 x 16 patches, 4 levels up to 128 x 128.
The loop runs `--looped` of the boxes, each costs it the same. Times are CPU seconds (of all threads together) and
seconds of the clock. The script stops where tokens differ. `--train` measures forward and backward.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from vidtune.models.connectors.fused_levels import FuseBlock
from vidtune.models.connectors.region import RegionConnector, RegionConnectorConfig

AGREEMENT = 1e-3


def crop(level: Tensor, box: Tensor, size: int, samples: int) -> Tensor:
    """RoIAlign of one box, by reading four neighbours of every point. Shape: (C, S, S), (4,) -> (C, size, size)"""
    side = level.shape[-1]
    start, end = box[:2] - 0.5, box[2:] - 0.5
    steps = (torch.arange(size * samples) + 0.5) / samples / size
    x, y = (start[axis] + (end - start)[axis] * steps for axis in (0, 1))
    values = []
    for place in y:
        seen = (place >= -1) & (place <= side) & (x >= -1) & (x <= side)
        row, column = place.clamp(0, side - 1), x.clamp(0, side - 1)
        top, left = row.floor().long(), column.floor().long()
        low, right = (top + 1).clamp(max=side - 1), (left + 1).clamp(max=side - 1)
        down, across = row - top, column - left
        upper = level[:, top, left] * (1 - across) + level[:, top, right] * across
        lower = level[:, low, left] * (1 - across) + level[:, low, right] * across
        values.append((upper * (1 - down) + lower * down) * seen)
    return F.avg_pool2d(torch.stack(values, dim=1), samples)


def looped(net: RegionConnector, states: Tensor, boxes: Tensor) -> Tensor:
    """Tokens of boxes, one by one and level by level, as the published module describes them.

    Shape: (N, K, G, G, C), (N, 4) -> (N, D)
    """
    return torch.stack([one_box(net, state, box) for state, box in zip(states, boxes, strict=True)])


def one_box(net: RegionConnector, states: Tensor, box: Tensor) -> Tensor:
    """Shape: (K, G, G, C), (4,) -> (D,)"""
    config, fuse, head = net.config, net.mlvl_fuse, net.roi_align
    levels, width = range(config.num_levels), config.hidden_size
    sides, quarter = [config.grid * 2 ** (config.num_levels - 1 - level) for level in levels], width // 4
    maps = []
    for level in levels:
        resized = resize(states[level].permute(2, 0, 1)[None], sides[level])
        line = torch.linspace(-1, 1, sides[level])
        x, y = line.expand(1, 1, len(line), -1), line[:, None].expand(1, 1, -1, len(line))
        maps.append(fuse.input_conv[level](torch.cat([resized, x, y], dim=1)))
    for block in cast(list[FuseBlock], fuse.fuse_convs):
        mixed = []
        for level in levels:
            above, below = maps[min(level + 1, levels[-1])], maps[max(level - 1, 0)]
            parts = maps[level][:, : width - 2 * quarter], above[:, -quarter:], below[:, width - 2 * quarter : -quarter]
            mixed.append(torch.cat([resize(part, sides[level]) for part in parts], dim=1))
        maps = [F.relu(block.gn(F.conv2d(one, block.conv.weight, padding=1))) for one in mixed]
    fused = torch.zeros(1)
    for level in levels:
        crops = crop(maps[level][0], box * sides[level], config.roi_size, config.sampling_ratio)
        fused = fused + head.pconvs[level](crops[None])
    return head.updims(head.flatten_linear(F.relu(fused).flatten()) + head.pos_embedd(box))


def resize(maps: Tensor, side: int) -> Tensor:
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=True)


def measure(run: Callable[[], Tensor], train: bool) -> tuple[Tensor, float, float]:
    """What a run gives, its CPU seconds and its seconds of the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    with torch.set_grad_enabled(train):
        tokens = run()
        if train:
            tokens.square().sum().backward()
    return tokens.detach(), time.process_time() - cpu, time.perf_counter() - clock


def peak() -> float:
    """Most memory that this process has held, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=9)
    parser.add_argument("--looped", type=int, default=2, help="boxes that the loop runs")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train", action="store_true", help="forward and backward")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    width = arguments.width
    net = RegionConnectorConfig(hidden_size=width, groups=width // 16, inner_size=width).build()
    states = torch.randn(arguments.boxes, 4, 16, 16, width)
    boxes = torch.rand(arguments.boxes, 2, 2).sort(1).values.flatten(1)
    weights = sum(parameter.numel() for parameter in net.parameters()) * 4 / 2**30
    few = min(arguments.looped, arguments.boxes)
    print(f"torch {torch.__version__}, {arguments.threads} threads, width {width}, weights {weights:.2f} GiB\n")
    before = peak()
    ours, cpu, clock = measure(lambda: net.box_tokens(states, boxes), arguments.train)
    memory = peak() - before
    net.zero_grad()
    plain, plain_cpu, plain_clock = measure(lambda: looped(net, states[:few], boxes[:few]), arguments.train)
    difference = (ours[:few] - plain).abs().max().item()
    if difference > AGREEMENT * plain.std().item():
        raise SystemExit(f"tokens differ by {difference}, their deviation is {plain.std().item()}")
    print("| way | boxes | CPU s per box | s per box | tokens per CPU s |")
    print("| --- | ---: | ---: | ---: | ---: |")
    print(f"| loop | {few} | {plain_cpu / few:.2f} | {plain_clock / few:.2f} | {few / plain_cpu:.3f} |")
    number = arguments.boxes
    print(f"| ours | {number} | {cpu / number:.2f} | {clock / number:.2f} | {number / cpu:.3f} |")
    print(f"\npeak memory of ours beside weights and inputs: {memory:.2f} GiB")
    print(f"largest difference of tokens {difference:.1e}, their deviation {plain.std().item():.1e}")
    print(f"ratio {plain_cpu / few / (cpu / number):.2f}")


if __name__ == "__main__":
    main()
