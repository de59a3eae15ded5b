"""Which decoder layers of a language model stand on which of several devices."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from vidtune.checkpoints.placement.place import Placement
from vidtune.machine.devices import free_memory
from vidtune.models.video_lm import VideoLM

Size = Callable[[Tensor], int]
"""Weight -> bytes that it takes on its device."""


def divided_layers(model: VideoLM, placement: Placement, size: Size) -> dict[nn.Module, str]:
    """Returns the device of each decoder layer where the language model has several; empty where it has one.

    Args:
        model: the model, whose weights may be on the meta device.
    """
    home, *others = placement.devices
    if not others:
        return {}
    layers = list(model.family.decoder_layers(model.language_model))
    sizes = [part_bytes(layer, size) for layer in layers]
    at_home = [part for name, part in model.named_children() if placement.of(name) == home]
    beside = sum(part_bytes(part, size) for part in at_home) - sum(sizes)
    numbers = divide(sizes, beside, [free_memory(torch.device(device)) for device in placement.devices])
    return {layer: placement.devices[number] for layer, number in zip(layers, numbers, strict=True)}


def divide(layers: Sequence[int], beside: int, free: Sequence[int]) -> list[int]:
    """Returns the number of the device of each layer: in their order, and such that the fullest device is as empty as
    it can be, by the share of its free memory that it gives.

    Args:
        layers: bytes of each layer.
        beside: bytes that the first device holds beside layers.
        free: free bytes of each device.
    """
    ends = [0, *accumulate(layers)]
    shares = sorted(
        {
            (held + end - begin) / max(1, room)
            for held, room in zip([beside, *[0] * (len(free) - 1)], free, strict=True)
            for number, begin in enumerate(ends)
            for end in ends[number:]
        }
    )
    lowest = bisect_left(shares, True, key=lambda share: _filled(layers, beside, free, share) is not None)
    found = _filled(layers, beside, free, shares[lowest])
    assert found is not None  # all layers on the first device are one of the shares
    return found


def _filled(layers: Sequence[int], beside: int, free: Sequence[int], share: float) -> list[int] | None:
    """The devices of the layers where each device gives this share of its free memory; None: that is not enough."""
    found: list[int] = []
    for number, room in enumerate(free):
        used = 0 if number else beside
        if used / max(1, room) > share:
            return None
        while len(found) < len(layers) and (used + layers[len(found)]) / max(1, room) <= share:
            used += layers[len(found)]
            found.append(number)
    return found if len(found) == len(layers) else None


def part_bytes(part: nn.Module, size: Size) -> int:
    """Bytes of the weights and buffers of a part."""
    return sum(size(weight) for weight in (*part.parameters(), *part.buffers()))
