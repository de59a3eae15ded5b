"""Merging: low-rank adapters added to the weights of a model.

Legend: r rank, I inputs and O outputs of a linear layer.
Source: LoRA (arXiv:2106.09685).
"""

from pathlib import Path

import torch
from torch import nn

from vidtune.checkpoints.lora.adapter_files import Adapter
from vidtune.checkpoints.publication import KeyMap
from vidtune.errors import UserError


@torch.no_grad()
def merge(model: nn.Module, adapter: Adapter, keys: KeyMap, where: str | Path) -> None:
    """Add the updates of an adapter to the weights of a model, in place.

    Works on one layer at a time. Sums are made in float32 and rounded to the dtype of the weight.

    Args:
        keys: key map from the adapter's names of weights to the model's.
        where: path for error messages.

    Raises:
        UserError: an update whose weight is not there or has another shape; names it.
    """
    parameters = dict(model.named_parameters())
    for layer, (down, up) in adapter.factors.items():
        name = f"{layer}.weight"
        weight = parameters.get(keys.to_ours(name) or "")
        if weight is None or weight.shape != (up.shape[0], down.shape[1]):
            shape = (up.shape[0], down.shape[1])
            raise UserError(f"{where}: the base model has no weight {name!r} of shape {shape}")
        update = (up.to(weight.device).float() @ down.to(weight.device).float()) * adapter.scale
        weight.copy_(weight.float() + update)
