"""The lean ``quick_gelu`` of CLIP towers: the values of transformers, and its gradients."""

import pytest
import torch
from transformers.activations import QuickGELUActivation

from vidtune.models.towers.clip import ClipTowerConfig, QuickGelu

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_equal_bit_for_bit_and_gradients_to_rounding(dtype: torch.dtype) -> None:
    x = torch.linspace(-9, 9, 999, dtype=dtype)
    found = []
    for activation in (QuickGELUActivation(), QuickGelu()):
        leaf = x.clone().requires_grad_()
        values = activation(leaf)
        (values * torch.arange(999)).sum().backward()
        found.append((values.detach(), leaf.grad / torch.arange(1, 1000)))
    (values, gradient), (ours, our_gradient) = found
    assert torch.equal(ours, values)
    torch.testing.assert_close(our_gradient, gradient, atol=2e-7 if dtype == torch.float32 else 2e-2, rtol=2e-6)


def test_towers_with_quick_gelu_have_it_and_others_keep_theirs() -> None:
    for name, lean in (("quick_gelu", True), ("gelu", False)):
        layers = ClipTowerConfig(**SIZES, image_size=28, hidden_act=name).build().encoder.layers
        assert {isinstance(layer.mlp.activation_fn, QuickGelu) for layer in layers} == {lean}
