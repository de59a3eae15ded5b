"""Layers that differ from torch's in their initial weights alone.

The rule stands in the layer itself, not in the block around it: transformers resets only modules that hold a missing
weight themselves.
"""

from torch import nn

LINEAR_STD = 0.02


class NormalLinear(nn.Linear):
    """Normal weights, zero bias: how language models of transformers start, and what is trained along with them."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=LINEAR_STD)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ZeroConv3d(nn.Conv3d):
    """All zero: a branch that ends with it starts without effect."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ZeroBiasConv3d(nn.Conv3d):
    """Torch's own weights, zero bias."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class XavierLinear(nn.Linear):
    """Normal weights that keep the variance of what passes, times ``gain``; zero bias."""

    def __init__(self, in_features: int, out_features: int, gain: float = 1.0) -> None:
        self.gain = gain
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        nn.init.xavier_normal_(self.weight, self.gain)
        nn.init.zeros_(self.bias)
