"""The output head of a language model: which layer it is, and what model families do to its logits."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

Adjustment = Callable[[Tensor], Tensor]
# Model families whose logits are the output of the head on the last hidden state of the decoder, unchanged or adjusted.
_PLAIN = {"llama", "mistral", "qwen2", "qwen3", "phi3", "olmo2", "gemma", "smollm3"}
_ADJUSTED: dict[str, tuple[str, Callable[[float], Adjustment]]] = {
    "cohere": ("logit_scale", lambda scale: lambda logits: logits * scale),
    "gemma2": ("final_logit_softcapping", lambda cap: lambda logits: torch.tanh(logits / cap) * cap),
    "granite": ("logits_scaling", lambda scale: lambda logits: logits / scale),
}


def output_head(part: nn.Module) -> nn.Module | None:
    """The layer of a language model that computes logits; None for other components."""
    return getattr(part, "get_output_embeddings", lambda: None)()


def tied_names(model: nn.Module) -> list[tuple[str, ...]]:
    """Return the names of every parameter that has more than one name, such as embeddings that are the head too."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [tuple(group) for group in names.values() if len(group) > 1]


def knows_logits(config: PreTrainedConfig) -> bool:
    """Whether :func:`logit_adjustment` is known for this model family."""
    return config.model_type in _PLAIN or config.model_type in _ADJUSTED


def logit_adjustment(config: PreTrainedConfig) -> Adjustment | None:
    """Function that a language model of a known family applies to its logits, such as soft-capping; None if none."""
    key, make = _ADJUSTED.get(config.model_type, ("", None))
    value = getattr(config, key, None)
    return None if make is None or value is None else make(value)
