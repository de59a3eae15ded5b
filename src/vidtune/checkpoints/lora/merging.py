"""Low-rank adapters on a model: added to its weights, or put beside them.

Legend: r rank, I inputs and O outputs of a linear layer.
Source: LoRA (arXiv:2106.09685).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vidtune.checkpoints.lora.adapter_files import Adapter
from vidtune.checkpoints.lora.adapter_settings import CONFIG_NAME, is_target
from vidtune.checkpoints.publication import KeyMap
from vidtune.errors import UserError
from vidtune.models.low_rank import add_update

Put = Callable[[nn.Module, Adapter, KeyMap, str | Path], None]
"""Function that puts an adapter on a model in place: `merge`, or `put_beside`."""


@torch.no_grad()
def merge(model: nn.Module, adapter: Adapter, keys: KeyMap, where: str | Path) -> None:
    """Add the updates of an adapter to the weights of a model, in place.

    Works on one layer at a time. Sums are made in float32 and rounded to the dtype of the weight.

    Args:
        keys: key map from the adapter's names of weights to the model's.
        where: path for error messages.

    Raises:
        UserError: an update whose weight is not there or has another shape, or a weight that the config of the adapter
            names and that has no update; names it.
    """
    for _, weight, (down, up) in _adapted(dict(model.named_parameters()), adapter, keys, where):
        update = (up.to(weight.device).float() @ down.to(weight.device).float()) * adapter.scale
        weight.copy_(weight.float() + update)


def put_beside(model: nn.Module, adapter: Adapter, keys: KeyMap, where: str | Path) -> None:
    """Put the updates of an adapter beside the weights of a model, in place, so that these may be shared.

    Arguments and errors as of `merge`.
    """
    for name, _, (down, up) in list(_adapted(dict(model.named_parameters()), adapter, keys, where)):
        add_update(model, name.removesuffix(".weight"), down, up, adapter.scale)


def _adapted(
    parameters: Mapping[str, Tensor], adapter: Adapter, keys: KeyMap, where: str | Path
) -> Iterator[tuple[str, Tensor, tuple[Tensor, Tensor]]]:
    """Yields the name of each adapted weight, the weight and its factors. Raises as `merge`, also at the end."""
    for layer, (down, up) in adapter.factors.items():
        name = f"{layer}.weight"
        ours = keys.to_ours(name) or ""
        weight = parameters.get(ours)
        if weight is None or weight.shape != (up.shape[0], down.shape[1]):
            shape = (up.shape[0], down.shape[1])
            raise UserError(f"{where}: the base model has no weight {name!r} of shape {shape}")
        yield ours, weight, (down, up)
    _require_all_updates(parameters, adapter, keys, where)


def _require_all_updates(parameters: Mapping[str, Tensor], adapter: Adapter, keys: KeyMap, where: str | Path) -> None:
    """Raise UserError where the config of an adapter names a layer whose factors are not there: a part of the file is
    lost. Looks in the component that the adapter changes."""
    if adapter.config.get("target_modules") in (None, [], "all-linear"):
        return
    changed = (keys.to_ours(f"{layer}.weight") or "" for layer in adapter.factors)
    components = {re.match(r"language_model\.|(\w+\.){0,2}", name)[0] for name in changed}  # type: ignore[index]
    for name, weight in parameters.items():
        if weight.ndim != 2 or not name.endswith(".weight") or not name.startswith(tuple(components - {""})):
            continue
        layer = (keys.to_theirs(name) or "").removesuffix(".weight")
        if layer and layer not in adapter.factors and is_target(adapter.config, layer):
            raise UserError(
                f"{where}: no factors of {layer!r}, which target_modules in {CONFIG_NAME} names; copy the whole adapter"
            )
