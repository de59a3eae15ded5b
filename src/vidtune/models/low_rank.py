"""A linear layer with updates of low rank beside its weight, which may be shared with other models.

Legend: I inputs, O outputs, r rank. Source: LoRA (arXiv:2106.09685).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class LowRank(nn.Module):
    """A linear layer and one update: ``W x + scale * B (A x)``.

    Args:
        layer: the layer.
        down, up: A of shape (r, I) and B of shape (O, r), on the device and in the dtype of the layer.

    Shape: (..., I) -> (..., O)
    """

    def __init__(self, layer: nn.Module, down: Tensor, up: Tensor, scale: float) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale
        self.down, self.up = nn.Parameter(down, requires_grad=False), nn.Parameter(up, requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The weight with its update, (O, I), made anew; for code that reads a weight itself."""
        weight = cast(Tensor, self.layer.weight)
        return (weight.float() + self.scale * (self.up.float() @ self.down.float())).to(weight.dtype)

    @property
    def bias(self) -> Tensor | None:
        return cast("Tensor | None", self.layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layer(x)) + self.scale * linear(linear(x, self.down), self.up)


@torch.no_grad()
def add_update(model: nn.Module, name: str, down: Tensor, up: Tensor, scale: float) -> None:
    """Put an update beside the weight of a linear layer, in place.

    Args:
        name: name of the layer.
    """
    parent, _, child = name.rpartition(".")
    owner = model.get_submodule(parent)
    layer = cast(nn.Module, getattr(owner, child))
    weight = cast(Tensor, layer.weight)
    setattr(owner, child, LowRank(layer, down.to(weight), up.to(weight), scale))
