"""A TorchScript archive with the names and the layout of those that OpenAI published CLIP in."""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn


class _Visual(nn.Module):
    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        width, projected = state["visual.proj"].shape
        patch, layers = state["visual.conv1.weight"].shape[-1], {k.split(".")[3] for k in state if "resblocks" in k}
        hidden = len(state["visual.transformer.resblocks.0.mlp.c_fc.bias"])
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros_like(state["visual.positional_embedding"]))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, projected))
        blocks = []
        for _ in layers:
            block = nn.Module()
            block.attn = nn.MultiheadAttention(width, 1)
            block.ln_1, block.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            parts = {"c_fc": nn.Linear(width, hidden), "gelu": nn.GELU(), "c_proj": nn.Linear(hidden, width)}
            block.mlp = nn.Sequential(OrderedDict(parts))
            blocks.append(block)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(*blocks)


class _Clip(nn.Module):
    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.visual = _Visual(state)
        self.logit_scale = nn.Parameter(torch.ones([]))
        self.token_embedding = nn.Embedding(7, 3)
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.logit_scale


def save_archive(state: dict[str, Tensor], path: Path) -> Path:
    """Write the tensors ``visual.*`` with a scrap of a text tower beside them, traced as the published archives are."""
    model = _Clip(state)
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and all(not key.startswith("visual.") for key in missing.missing_keys)
    model.to(next(iter(state.values())).dtype)
    torch.jit.save(torch.jit.trace(model, torch.zeros(1)), path)
    return path
