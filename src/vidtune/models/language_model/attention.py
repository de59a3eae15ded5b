"""Attention of the language model: one function for packed, padded and cached input, and for shared prefixes.

Registered with transformers under :data:`PACKED_ATTENTION`. With ``cu_seqlens`` every example of a pack attends to
itself only, and no L x L mask is built. With ``attend`` the caller computes the attention. With neither, this is causal
attention with an optional padding mask. Each forward call chooses by its keyword arguments. The configuration of the
model is never changed, so several threads can call one model at the same time.

Packs run in one kernel for variable lengths where the device has one (:func:`packed_kernel`), else example by example.

Legend: B batch, H heads, G key/value heads, L tokens, K keys (L plus what a cache holds), D head width, S examples.
"""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from inspect import signature
from itertools import pairwise
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedConfig
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from vidtune.errors import UserError

PACKED_ATTENTION = "vidtune_packed"
PackedKernel = Literal["flash_attn", "varlen_attn", "one_by_one"]
Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
"""Attention of one layer, computed by the caller: layer index, query (L, H, D), key and value (L, G, D), scale ->
(L, H, D). The batch has one row."""
# Options of attention that some models use and that this file does not compute.
_UNSUPPORTED = ("sliding_window", "softcap", "s_aux")


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seqlens: list[int] | None = None,
    attend: Attend | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention, inside each packed example when ``cu_seqlens`` gives their boundaries.

    Args:
        cu_seqlens: boundaries [0, l1, l1 + l2, ..., L] of the examples of a pack, as Python numbers.
        attend: computes the attention of this call; mask and dropout are then not used.

    Shape: query (B, H, L, D), key and value (B, G, K, D) -> (B, L, H, D)
    Raises:
        NotImplementedError: the model uses a sliding window, capped scores or sinks, which this function lacks.
    """
    if asked := [name for name in _UNSUPPORTED if kwargs.get(name) is not None]:
        raise NotImplementedError(f"packed attention has no {', '.join(asked)}")
    if attend is not None:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
        return attend(cast(int, module.layer_idx), query, key, value, scale)[None], None
    if cu_seqlens is not None:
        return attend_packed(query, key, value, cu_seqlens, scaling, dropout), None
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}
    if attention_mask is not None:
        output = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, **options)
    elif query.shape[2] == 1:
        output = scaled_dot_product_attention(query, key, value, **options)
    elif query.shape[2] == key.shape[2]:
        output = scaled_dot_product_attention(query, key, value, is_causal=True, **options)
    else:
        length, keys = query.shape[2], key.shape[2]
        mask = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril(keys - length)
        output = scaled_dot_product_attention(query, key, value, attn_mask=mask, **options)
    return output.transpose(1, 2).contiguous(), None


def attend_packed(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: list[int], scale: float | None, dropout: float = 0.0
) -> Tensor:
    """Causal attention inside each example of a pack, by the best kernel of the device.

    Shape: query (1, H, L, D), key and value (1, G, L, D) -> (1, L, H, D)
    """
    # Under autocast, rotary embedding leaves queries in float32, and autocast does not cast the inputs of the kernels.
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    kernel = packed_kernel(query.device, dtype, query.shape[-1], dropout)
    if kernel == "one_by_one":
        return _attend_one_by_one(query, key, value, cu_seqlens, scale, dropout)

    q, k, v = (x[0].transpose(0, 1).to(dtype) for x in (query, key, value))
    at, longest = _offsets(tuple(cu_seqlens), query.device)
    if kernel == "flash_attn":
        from flash_attn import flash_attn_varlen_func

        return flash_attn_varlen_func(
            q, k, v, at, at, longest, longest, dropout_p=dropout, softmax_scale=scale, causal=True
        )[None]

    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"scale": scale, "window_size": (-1, 0)}
    if q.shape[1] != k.shape[1]:
        if "enable_gqa" in signature(varlen_attn).parameters:
            options["enable_gqa"] = True
        else:  # an older torch
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    return cast(Tensor, varlen_attn(q, k, v, at, at, longest, longest, **options))[None]


def _attend_one_by_one(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: list[int], scale: float | None, dropout: float = 0.0
) -> Tensor:
    options: dict[str, Any] = {"scale": scale, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}
    lengths = [end - begin for begin, end in pairwise(cu_seqlens)]
    # split instead of slices: the gradient of every slice would be as long as the whole pack.
    examples = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    outputs = [scaled_dot_product_attention(q, k, v, is_causal=True, **options) for q, k, v in examples]
    return torch.cat([output.transpose(1, 2) for output in outputs], dim=1)


def packed_kernel(device: torch.device, dtype: torch.dtype, head_width: int, dropout: float = 0.0) -> PackedKernel:
    """Name of the kernel that computes a pack: flash-attn's where it is installed, else torch's, if the device has it.

    Args:
        dtype: dtype of the computation; under autocast that of autocast.
        dropout: dropout of attention weights; torch's kernel has no dropout.
    """
    suits = (
        device.type == "cuda"
        and dtype in (torch.float16, torch.bfloat16)
        and head_width % 8 == 0
        and head_width <= 256
        and _has_flash(device)
    )
    if suits and _is_installed("flash_attn"):
        return "flash_attn"
    return "varlen_attn" if suits and not dropout and _is_installed("torch.nn.attention.varlen") else "one_by_one"


@cache
def _has_flash(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


@lru_cache(maxsize=4)
def _offsets(cu_seqlens: tuple[int, ...], device: torch.device) -> tuple[Tensor, int]:
    """(S + 1,) int32 boundaries on the device, and the length of the longest example.

    Cached, because all layers of a pack, and its recomputation under gradient checkpointing, need the same tensor. The
    copy to the device does not block.
    """
    with torch.inference_mode(False):  # an evaluation may create the tensor that training uses later
        offsets = torch.tensor(cu_seqlens, dtype=torch.int32, pin_memory=device.type == "cuda")
        longest = max(end - begin for begin, end in pairwise(cu_seqlens))
        return offsets.to(device, non_blocking=True), longest


def other_attention(config: PreTrainedConfig) -> set[str]:
    """Kinds of attention that a language model asks for and that :func:`packed_attention` would compute wrongly."""
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if getattr(config, "layer_types", None) is None and getattr(config, "sliding_window", None):
        kinds.add("sliding_window")
    if getattr(config, "attn_logit_softcapping", None):
        kinds.add("attn_logit_softcapping")
    return kinds


def check_attention(config: PreTrainedConfig) -> None:
    """Raise an error for a language model that :func:`packed_attention` would compute wrongly.

    Raises:
        UserError: the model has sliding-window or other non-full attention, or caps its attention scores.
    """
    if kinds := other_attention(config):
        raise UserError(
            f"language model {config.model_type!r} has {', '.join(sorted(kinds))}, which packed attention does not "
            "compute; choose one with full attention, or switch that off in its configuration"
        )


def rotary_limit(config: PreTrainedConfig) -> int | None:
    """Largest number of tokens of a sequence whose positions do not depend on other sequences; None: there is none.

    Rotary positions of type "dynamic" and "longrope" are turned by other frequencies as soon as one sequence of a call
    is longer than this, and then all sequences of the call are.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    limits: list[int] = []
    for part in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if part.get("rope_type") == "longrope":
            limits.append(part.get("original_max_position_embeddings") or config.max_position_embeddings)
        elif part.get("rope_type") == "dynamic":
            limits.append(config.max_position_embeddings)
    return min(limits, default=None)


def check_lengths(config: PreTrainedConfig, lengths: Sequence[int] | np.ndarray) -> None:
    """Raise an error for sequences of one pack whose positions would depend on each other, see :func:`rotary_limit`.

    Raises:
        UserError: one of several sequences is too long.
    """
    limit = rotary_limit(config)
    if limit is not None and len(lengths) > 1 and (longest := int(np.max(lengths))) > limit:
        raise UserError(
            f"language model {config.model_type!r} changes the rotary positions of all samples of a pack if one has "
            f"more than {limit} tokens, and one has {longest}; set max_expanded_length to at most {limit}"
        )


def _mask_only_for_padding(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """Mask of transformers for padded batches; None for packed or plain causal input, which needs no mask."""
    return None if attention_mask is None else sdpa_mask(*args, attention_mask=attention_mask, **kwargs)


def register_attention() -> None:
    """Register :data:`PACKED_ATTENTION` with transformers; may be called more than once."""
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    AttentionMaskInterface.register(PACKED_ATTENTION, _mask_only_for_padding)
