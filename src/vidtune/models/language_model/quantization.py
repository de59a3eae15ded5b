"""Quantised weights: frozen linear layers of a language model in 8 or 4 bits, by bitsandbytes.

Source: QLoRA (arXiv:2305.14314): 4-bit normal floats, quantised constants, bfloat16 compute; LLM.int8()
(arXiv:2208.07339).
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from vidtune.errors import UserError
from vidtune.models.language_model.head import output_head


def require_bitsandbytes(where: str) -> None:
    """Raise UserError with the pip command if bitsandbytes is not installed.

    Args:
        where: place of the setting, for the message.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError(f"{where}: needs the package bitsandbytes; pip install bitsandbytes")


def quantize_linear_layers(language_model: nn.Module, bits: str) -> None:
    """Replace every linear layer except the output head by one with a quantised weight, in place.

    Args:
        bits: "8bit" or "4bit".
    """
    head = output_head(language_model)
    for name, layer in list(language_model.named_modules()):
        if isinstance(layer, nn.Linear) and layer is not head:
            parent, _, child = name.rpartition(".")
            setattr(language_model.get_submodule(parent), child, _quantized(layer, bits))


def _quantized(layer: nn.Linear, bits: str) -> nn.Module:
    import bitsandbytes as bnb

    sizes: dict[str, Any] = {"bias": layer.bias is not None, "device": "meta"}
    if bits == "4bit":
        small: Any = bnb.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            compute_dtype=torch.bfloat16,
            compress_statistics=True,
            quant_type="nf4",
            **sizes,
        )
        small.weight = bnb.nn.Params4bit(
            layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=small
        )
    else:
        small = bnb.nn.Linear8bitLt(
            layer.in_features, layer.out_features, has_fp16_weights=False, threshold=6.0, **sizes
        )
        small.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    small.bias = layer.bias
    small.register_state_dict_post_hook(_leave_out_constants)
    return small.to(layer.weight.device)


def _leave_out_constants(layer: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Remove the quantisation constants from a state dict; quantised weights are never saved."""
    for key in [key for key in state if key.startswith(prefix) and key[len(prefix) :] not in ("weight", "bias")]:
        del state[key]
