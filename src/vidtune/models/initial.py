"""Initial weights: layers that differ from those of torch only in them, and modules that are built without.

The rule belongs to the layer itself and not to the block around it, because transformers initialises only modules that
directly contain a missing weight.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LINEAR_STD = 0.02


@contextmanager
def without_values() -> Iterator[None]:
    """Modules that are built inside have names and shapes alone: their tensors are on the meta device, and no initial
    value is worked out for them, which would take most of the time.
    """
    with torch.device("meta"), NoValuesFilled():
        yield


class NoValuesFilled(TorchFunctionMode):
    """Leaves out the operations that fill a tensor on the meta device; all others are done."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FILLING:
            filled = args[0] if args else kwargs["tensor"]
            if filled.is_meta:
                return filled
        return func(*args, **kwargs)


_FILLING = {
    # These four ask modes before they work.
    *(nn.init.uniform_, nn.init.normal_, nn.init.constant_, nn.init.kaiming_uniform_),
    *(Tensor.uniform_, Tensor.normal_, Tensor.fill_, Tensor.zero_),
}


class NormalLinear(nn.Linear):
    """Normal weights and zero bias, as language models of transformers start."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=LINEAR_STD)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ZeroConv3d(nn.Conv3d):
    """Zero weights and bias: a branch that ends with this layer has no effect at the start."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ZeroBiasConv3d(nn.Conv3d):
    """Weights as in torch, zero bias."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class XavierLinear(nn.Linear):
    """Normal weights that keep the variance of the input, times ``gain``; zero bias."""

    def __init__(self, in_features: int, out_features: int, gain: float = 1.0) -> None:
        self.gain = gain
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        nn.init.xavier_normal_(self.weight, self.gain)
        nn.init.zeros_(self.bias)


class KaimingConv2d(nn.Conv2d):
    """Normal weights that keep the variance of gradients behind ReLU (fan out); zero bias."""

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class NormalConv2d(nn.Conv2d):
    """Normal weights of standard deviation 0.01; zero bias."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.01)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
