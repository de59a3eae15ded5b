"""A language model whose decoder layers stand on several devices.

Embeddings, rotary positions, last norm and head stay together on the first device, the home. Before each layer, hidden
states and the other inputs of the layer go to its device; after the last one, hidden states go back. What all layers
get, such as masks and rotary positions, goes to each device once in a call. Keys and values of a layer stay on its
device, in a cache as well as in a shared prefix.
"""

import threading
from collections.abc import Callable, Mapping
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
    carrier, layers = _Carrier(), list(devices)
    # Before the hook of a layer program, which then finds everything on the device of its layer.
    for layer, device in devices.items():
        layer.register_forward_pre_hook(partial(carrier.bring, torch.device(device)), with_kwargs=True, prepend=True)
    layers[0].register_forward_pre_hook(carrier.begin, prepend=True)
    layers[-1].register_forward_hook(partial(carrier.send_back, home))


class _Carrier(threading.local):
    """Brings the inputs of layers to their devices; calls of several threads do not see each other's."""

    def __init__(self) -> None:
        self._brought: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def __reduce__(self) -> tuple[type["_Carrier"], tuple[()]]:
        return _Carrier, ()  # a copy of the model has calls of its own

    def begin(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        """Forget what the last call brought, which may have ended by an error."""
        self._brought.clear()

    def bring(
        self, device: torch.device, layer: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs of a layer on its device: hidden states, which come by position, and what all layers get."""
        hidden = tuple(_moved(value, lambda part: part.to(device)) for value in args)
        return hidden, {name: _moved(value, partial(self._once, device)) for name, value in inputs.items()}

    def _once(self, device: torch.device, part: Tensor) -> Tensor:
        if part.device == device:
            return part
        key = id(part), device
        if key not in self._brought:
            self._brought[key] = part, part.to(device)  # the tensor too, so that no other one gets its id
        return self._brought[key][1]

    def send_back(self, home: torch.device, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The output of the last layer at home."""
        self._brought.clear()
        return _moved(output, lambda part: part.to(home))


def _moved(value: Any, move: Callable[[Tensor], Tensor]) -> Any:
    def moved(part: Any) -> Any:
        return move(part) if isinstance(part, Tensor) else part

    return tree_map(moved, value) if isinstance(value, _MOVED) else value
