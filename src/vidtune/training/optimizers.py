"""Optimizers of a stage: AdamW, and Muon for the matrices of linear layers.

Muon replaces the running average of a matrix's gradients by the nearest matrix with orthogonal rows or columns, so that
all directions are learned at the same speed. A small language model that starts from noise needs a third of the steps.
Source: kellerjordan.github.io/posts/muon; factor of the learning rate, by which a matrix moves as far as with AdamW:
arXiv:2502.16982. torch.optim.Muon computes in bfloat16, which is slow on a CPU, and takes no sharded weights.

Legend: R rows, C columns of a matrix, N number of matrices of one shape.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import AdamW, Optimizer

from vidtune.recipe.types import Stage

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_RMS_OF_ADAMW = 0.2
_AVERAGE = "average"
_AT_ONCE = 2**24
"""Weights that are turned together, or one matrix where it has more: bounds the memory of a step."""


def build_optimizer(groups: list[dict[str, Any]], stage: Stage) -> Optimizer:
    """Returns the optimizer of a stage over the groups of `setup.parameters.parameter_groups`."""
    if stage.optimizer == "muon":
        return Muon(groups, betas=stage.betas, eps=1e-8, fused=True)
    return AdamW(groups, betas=stage.betas, eps=1e-8, fused=True)


def averages(state: Mapping[str, Tensor]) -> list[Tensor]:
    """Returns the running averages that an optimizer holds of a parameter; none before its first step."""
    return [state[name] for name in ("exp_avg", "exp_avg_sq", _AVERAGE) if name in state]


class Muon(AdamW):
    """AdamW for all groups but those with ``turned``, whose matrices make orthogonal steps."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group.get("turned")]
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("turned"):
                self._turn(group)
        return loss

    def _turn(self, group: Mapping[str, Any]) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape.setdefault(parameter.shape, []).append(parameter)
        for shape, alike in by_shape.items():
            rate = group["lr"] * _RMS_OF_ADAMW * math.sqrt(max(shape))
            for some in _parts(alike, max(1, _AT_ONCE // shape.numel())):
                steps = _orthogonal_by_ranks([self._ahead(parameter, group["betas"][0]) for parameter in some])
                for parameter, step in zip(some, steps, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(_placed_like(parameter, step), alpha=-rate)

    def _ahead(self, parameter: Tensor, momentum: float) -> Tensor:
        """The gradient mixed with its running average, which it enters; whole on each rank."""
        assert parameter.grad is not None
        state = self.state[parameter]
        state.setdefault("step", torch.zeros(()))  # AdamW reads it from every state that it loads
        average = state.setdefault(_AVERAGE, torch.zeros_like(parameter))
        average.lerp_(parameter.grad, 1 - momentum)
        ahead = parameter.grad.lerp(average, momentum)
        return ahead.full_tensor() if isinstance(ahead, DTensor) else ahead


def orthogonal(matrices: Sequence[Tensor]) -> Tensor:
    """Returns near-orthogonal matrices in the place of some of one shape; singular values become about 0.7 to 1.2.

    Shape: N of (R, C) -> (N, R, C)
    """
    stacked = torch.stack(list(matrices))
    wide = stacked if stacked.shape[1] <= stacked.shape[2] else stacked.mT
    found = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    first, second, third = _COEFFICIENTS
    for _ in range(_ROUNDS):
        squares = found @ found.mT
        found = first * found + (second * squares + third * squares @ squares) @ found
    return found if wide is stacked else found.mT


def _orthogonal_by_ranks(matrices: Sequence[Tensor]) -> Tensor:
    """`orthogonal` of matrices that all ranks hold: each rank works out its share, and all get the same values."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    if world == 1:
        return orthogonal(matrices)
    share = -(-len(matrices) // world)
    own = matrices[dist.get_rank() * share :][:share]
    part = matrices[0].new_zeros(share, *matrices[0].shape)
    if own:
        part[: len(own)] = orthogonal(own)
    parts = [torch.empty_like(part) for _ in range(world)]
    dist.all_gather(parts, part)
    return torch.cat(parts)[: len(matrices)]


def _parts(alike: list[nn.Parameter], size: int) -> Iterator[list[nn.Parameter]]:
    return (alike[first : first + size] for first in range(0, len(alike), size))


def _placed_like(parameter: Tensor, whole: Tensor) -> Tensor:
    """The part of a tensor that this rank holds of a sharded parameter; of a plain one, the tensor."""
    if not isinstance(parameter, DTensor):
        return whole
    mesh = parameter.device_mesh
    return DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim).redistribute(placements=parameter.placements)
