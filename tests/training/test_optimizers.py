"""Muon: matrices make the steps of torch's own implementation, and all other weights those of AdamW."""

import pytest
import torch
from torch import nn

from vidtune.recipe.types import Stage
from vidtune.training.optimizers import Muon, build_optimizer, orthogonal

SETTINGS = {"name": "s", "train": {"towers": 1.0}, "data": [{"annotations": "a.json"}], "global_batch_size": 1}


def stepped(optimizers, net: nn.Module, steps: int = 3) -> list[torch.Tensor]:
    """Weights after some steps on given gradients."""
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()
    return [parameter.detach().clone() for parameter in net.parameters()]


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.Linear(40, 24), nn.Linear(24, 24))


def test_matrices_as_by_torch_and_the_rest_as_by_adamw() -> None:
    net = make_net()
    matrices = [parameter for parameter in net.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in net.parameters() if parameter.ndim != 2]
    groups = [
        {"params": matrices, "lr": 0.02, "weight_decay": 0.1, "turned": True},
        {"params": others, "lr": 0.02, "weight_decay": 0.0, "turned": False},
    ]
    ours = stepped([build_optimizer(groups, Stage(**SETTINGS, optimizer="muon", betas=(0.9, 0.98)))], net)

    net = make_net()
    matrices = [parameter for parameter in net.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in net.parameters() if parameter.ndim != 2]
    by_torch = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=0.02, weight_decay=0.0, betas=(0.9, 0.98), eps=1e-8, fused=True)
    for one, other, start in zip(ours, stepped([by_torch, adamw], net), make_net().parameters(), strict=True):
        if one.ndim == 1:
            assert torch.equal(one, other)
        else:  # theirs is computed in bfloat16
            moved = (other - start).norm()
            assert (one - other).norm() < 0.02 * moved


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16)])
def test_steps_are_near_orthogonal(shape: tuple[int, int]) -> None:
    several = orthogonal([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(3)])
    assert several.shape == (3, *shape)
    values = torch.linalg.svdvals(several)
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_a_gradient_of_zeros_moves_nothing() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([{"params": [weight], "lr": 1.0, "weight_decay": 0.0, "turned": True}]).step()
    assert torch.equal(weight, torch.ones(4, 4))
