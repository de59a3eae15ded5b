"""Low-rank adapters put into a component of the model, by PEFT.

Source: LoRA (arXiv:2106.09685), as github.com/huggingface/peft implements it.
"""

import torch
from torch import nn

from vidtune.checkpoints.lora.adapter_files import is_adapter_weight
from vidtune.errors import UserError
from vidtune.models.language_model.head import output_head
from vidtune.models.language_model.quantization import quiet_bitsandbytes
from vidtune.recipe.types import LoRA
from vidtune.spelling import suggestion

ADAPTER_NAME = "default"


def has_adapters(part: nn.Module) -> bool:
    """Whether a component has low-rank adapters."""
    return any(is_adapter_weight(name) for name, _ in part.named_parameters())


def target_layers(part: nn.Module, settings: LoRA, where: str) -> list[str]:
    """Return the names, below the component, of the linear layers that get adapters.

    These are the layers that ``settings`` names, or all linear layers but the head.

    Args:
        where: stage and component, for error messages.

    Raises:
        UserError: the component has no linear layers, or none of a given name (the nearest is named); the head shares
            its weights with the embeddings.
    """
    layers = {name: layer for name, layer in part.named_modules() if name and isinstance(layer, nn.Linear)}
    head, embeddings = output_head(part), getattr(part, "get_input_embeddings", lambda: None)()
    if not layers:
        raise UserError(f"{where}: has no linear layers to adapt; remove lora, which then trains all of its weights")
    if settings.layers is None:
        chosen = [name for name, layer in layers.items() if layer is not head]
    else:
        for wanted in settings.layers:
            if not any(_is_named(name, wanted) for name in layers):
                known = sorted({name.rpartition(".")[2] for name in layers})
                raise UserError(f"{where}: no linear layer is named {wanted!r}; {suggestion(wanted, known)}")
        chosen = [name for name in layers if any(_is_named(name, wanted) for wanted in settings.layers)]
    if head is not None and embeddings is not None and head.weight is embeddings.weight:
        shared = next((name for name in chosen if layers[name] is head), None)
        if shared is not None:
            raise UserError(f"{where}: {shared!r} shares its weights with the embeddings; leave it out of layers")
    return chosen


def add_adapters(part: nn.Module, settings: LoRA, seed: int, where: str) -> list[str]:
    """Put low-rank adapters into a component, in place. At first they do not change what the component computes.

    Both factors are float32: the first is drawn from ``seed`` alone, the second is zero. Nothing is frozen here.

    Args:
        where: stage and component, for error messages.

    Returns:
        Names of the adapted layers as in a PEFT config: only their last parts where these are enough.
    Raises:
        UserError: see :func:`target_layers`.
    """
    quiet_bitsandbytes()
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    targets = target_layers(part, settings, where)
    names = _short_names(part, targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=names,
    )
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, part, ADAPTER_NAME)
        torch.manual_seed(seed)
        for layer in part.modules():
            if isinstance(layer, LoraLayer):
                # PEFT casts the factors to the dtype of the frozen weight; drawn again, they do not depend on it.
                layer.lora_A.float()
                layer.lora_B.float()
                layer.reset_lora_parameters(ADAPTER_NAME, True)  # type: ignore[no-untyped-call]
    return names


def _short_names(part: nn.Module, targets: list[str]) -> list[str]:
    """The last parts of the targets' names, when they name no other module; else the full names."""
    short = sorted({name.rpartition(".")[2] for name in targets})
    named = {name for name, _ in part.named_modules() if any(_is_named(name, end) for end in short)}
    return short if named == set(targets) else targets


def _is_named(layer: str, wanted: str) -> bool:
    return layer == wanted or layer.endswith("." + wanted)
