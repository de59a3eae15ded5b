"""Memory that the weights of a model take on each device, worked out before a weight is read."""

from collections import Counter

import torch

from vidtune.checkpoints.placement.division import Size, divided_layers, part_bytes
from vidtune.checkpoints.placement.place import Placement
from vidtune.errors import UserError
from vidtune.machine.devices import device_memory, numbered
from vidtune.machine.memory import GIB
from vidtune.models.language_model.quantization import BYTES, quantized_layers
from vidtune.models.video_lm import VideoLM

Needed = dict[str, Counter[str]]
"""Device -> part of the model -> bytes of its weights."""


def needed_memory(model: VideoLM, dtype: torch.dtype, placement: Placement) -> Needed:
    """Returns the bytes that the weights of a model will take.

    Args:
        model: the model, whose weights may be on the meta device.
        dtype: of the weights that are not held in fewer bits.
    """
    size = weight_bytes(model, placement, dtype)
    found: Needed = {}
    names: dict[tuple[str, int], str] = {}

    def on(device: str) -> Counter[str]:
        """One counter for all names of a device."""
        return found.setdefault(names.setdefault(numbered(device), device), Counter())

    for name, part in model.named_children():
        on(placement.of(name))[name] += part_bytes(part, size)
    for layer, device in divided_layers(model, placement, size).items():
        on(placement.devices[0])["language_model"] -= part_bytes(layer, size)
        on(device)["language_model"] += part_bytes(layer, size)
    return found


def weight_bytes(model: VideoLM, placement: Placement, dtype: torch.dtype | None = None) -> Size:
    """Returns the function that says how many bytes a weight of a model takes where it is placed.

    Args:
        dtype: of the weights that are not held in fewer bits; None: that which each has.
    """
    small: set[int] = set()
    if placement.quantize is not None:
        small = {id(layer.weight) for layer in quantized_layers(model.language_model).values()}
    bits = BYTES[placement.quantize or ""] if small else 0.0
    return lambda weight: int(weight.numel() * (bits if id(weight) in small else (dtype or weight.dtype).itemsize))


def memory_in_words(needed: Needed) -> str:
    """Returns one line that says what the weights need: ``weights: 13.8 GiB on cuda (language_model 12.6, ...)``."""
    lines = []
    for place, parts in needed.items():
        named = ", ".join(f"{name} {_gib(size)}" for name, size in parts.most_common() if size)
        lines.append(f"{_gib(parts.total())} GiB on {place} ({named})")
    return f"weights: {'; '.join(lines)}; prompts and answers take more"


def require_memory(needed: Needed) -> None:
    """Raise UserError if the weights alone are more than a device has."""
    for place, parts in needed.items():
        has = device_memory(torch.device(place))
        if parts.total() > has:
            raise UserError(
                f"the weights need {_gib(parts.total())} GiB on {place}, which has {_gib(has)} GiB; give --quantize "
                "4bit, --dtype bfloat16, or other devices for a part (--place towers=cpu, --place language_model=auto)"
            )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
