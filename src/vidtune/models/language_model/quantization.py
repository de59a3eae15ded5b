"""Quantised weights: frozen linear layers of a language model in 8 or 4 bits, by bitsandbytes.

Source: QLoRA (arXiv:2305.14314): 4-bit normal floats, quantised constants, bfloat16 compute; LLM.int8()
(arXiv:2208.07339).
"""

import logging
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

from vidtune.errors import UserError
from vidtune.models.language_model.head import output_head

Bits = Literal["8bit", "4bit"]
"""Number of bits of a quantised weight."""
BYTES: dict[str, float] = {"8bit": 1.0, "4bit": 0.5 + 1 / 64}
"""Bytes of a quantised weight; of 4 bits with one quantised constant for 64 of them."""

CPU_COLUMNS, CPU_ROWS = 64, 32
"""A weight whose sizes are multiples of these gets another layout by bitsandbytes where a CPU has AVX-512 bfloat16."""

_TALKATIVE = ("autograd._functions", "backends.cpu.ops")
"""Parts of bitsandbytes that warn of every 8-bit product, and of a package without which 4 bits are slower on a CPU."""


def require_bitsandbytes(where: str) -> None:
    """Raise UserError with the pip command if bitsandbytes is not installed.

    Args:
        where: place of the setting, for the message.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError(f"{where}: needs the package bitsandbytes; pip install bitsandbytes")
    quiet_bitsandbytes()


def quiet_bitsandbytes() -> None:
    """Let bitsandbytes, which PEFT imports too, warn of nothing that a user of a CPU can do without."""
    for part in _TALKATIVE:
        logging.getLogger(f"bitsandbytes.{part}").setLevel(logging.ERROR)


def quantized_layers(language_model: nn.Module) -> dict[str, nn.Linear]:
    """The layers whose weights are quantised, by name: every linear layer except the output head."""
    head = output_head(language_model)
    layers = dict(language_model.named_modules()).items()
    return {name: layer for name, layer in layers if isinstance(layer, nn.Linear) and layer is not head}


def quantize_linear_layers(
    language_model: nn.Module,
    bits: Bits,
    place: Callable[[nn.Linear], torch.device] | None = None,
    *,
    in_own_dtype: bool = False,
) -> None:
    """Replace every linear layer except the output head by one with a quantised weight, in place.

    Args:
        place: layer -> where it is quantised, and stays; None: where it is.
        in_own_dtype: 4-bit layers compute in the dtype of their weights; False: in bfloat16, for training.
    """
    for name, layer in quantized_layers(language_model).items():
        parent, _, child = name.rpartition(".")
        compute = layer.weight.dtype if in_own_dtype else torch.bfloat16
        moved = layer if place is None else layer.to(place(layer))
        setattr(language_model.get_submodule(parent), child, _quantized(moved, bits, compute))


def _quantized(layer: nn.Linear, bits: Bits, compute: torch.dtype) -> nn.Module:
    import bitsandbytes as bnb

    sizes: dict[str, Any] = {"bias": layer.bias is not None, "device": "meta"}
    if bits == "4bit":
        small: Any = bnb.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            compute_dtype=compute,
            compress_statistics=True,
            quant_type="nf4",
            **sizes,
        )
        small.weight = bnb.nn.Params4bit(
            layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=small
        )
        if compute == torch.float32 or layer.in_features % CPU_COLUMNS or layer.out_features % CPU_ROWS:
            small.support_avx512bf16_for_cpu = False  # that layout computes in bfloat16, and holds no such weight
    else:
        small = bnb.nn.Linear8bitLt(
            layer.in_features, layer.out_features, has_fp16_weights=False, threshold=6.0, **sizes
        )
        small.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    small.bias = layer.bias
    small.register_state_dict_post_hook(_leave_out_constants)
    return small.to(layer.weight.device)


def is_quantized(layer: nn.Module) -> bool:
    """Whether a layer was made by `quantize_linear_layers`."""
    bnb = sys.modules.get("bitsandbytes")  # without it nobody has made one
    return bnb is not None and isinstance(layer, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt)


def _leave_out_constants(layer: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Remove the quantisation constants from a state dict; quantised weights are never saved."""
    for key in [key for key in state if key.startswith(prefix) and key[len(prefix) :] not in ("weight", "bias")]:
        del state[key]
