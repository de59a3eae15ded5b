"""A language model whose decoder layers stand on several devices.

Embeddings, rotary positions, last norm and head stay together on the first device, the home. Before each layer, hidden
states and the other inputs of the layer go to its device; after the last one, hidden states go back. Keys and values of
a layer stay on its device, in a cache as well as in a shared prefix.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

_MOVED = (Tensor, tuple, list, dict)
"""Kinds of inputs of a layer that are moved; a cache, and what a call carries for its layers, look after themselves."""


def spread_layers(devices: Mapping[nn.Module, str], home: torch.device) -> None:
    """Make the decoder layers of a language model compute on several devices, where they stand already.

    Args:
        devices: decoder layer -> its device, in the order of the layers.
        home: device of the other parts of the language model.
    """
    for layer, device in devices.items():
        # Before the hook of a layer program, which then finds everything on the device of its layer.
        layer.register_forward_pre_hook(partial(_bring, torch.device(device)), with_kwargs=True, prepend=True)
    last = next(reversed(list(devices)))
    last.register_forward_hook(partial(_send_back, home))


def _bring(
    device: torch.device, layer: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(_moved(value, device) for value in args), {
        name: _moved(value, device) for name, value in inputs.items()
    }


def _send_back(home: torch.device, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    return _moved(output, home)


def _moved(value: Any, device: torch.device) -> Any:
    def move(part: Any) -> Any:
        return part.to(device) if isinstance(part, Tensor) else part

    return tree_map(move, value) if isinstance(value, _MOVED) else value
