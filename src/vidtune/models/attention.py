"""Attention of the language model: block-diagonal causal over packed examples, or over padded and cached input.

Registered with transformers under :data:`PACKED_ATTENTION`. With ``cu_seqlens`` every example of a pack attends to
itself only; nothing of size L x L is built. Without it, this is causal attention with an optional padding mask.

Legend: B batch, H heads, G key/value heads, L tokens, K keys (L plus what a cache holds), D head width.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

PACKED_ATTENTION = "vidtune_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seqlens: list[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention, inside each packed example when ``cu_seqlens`` gives their boundaries.

    Args:
        cu_seqlens: boundaries [0, l1, l1 + l2, ..., L] of the examples of a pack, as Python numbers.

    Shape: query (B, H, L, D), key and value (B, G, K, D) -> (B, L, H, D)
    Raises:
        NotImplementedError: the model asks for a sliding window, which this function does not have.
    """
    if kwargs.get("sliding_window"):
        raise NotImplementedError("packed attention has no sliding window; set use_sliding_window=False")
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}
    if cu_seqlens is not None:
        segments = [
            scaled_dot_product_attention(query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], is_causal=True, **options)
            for a, b in pairwise(cu_seqlens)
        ]
        output = torch.cat(segments, dim=2) if len(segments) > 1 else segments[0]
    elif attention_mask is not None:
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


def _mask_only_for_padding(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """transformers' mask for padded batches; nothing for packed or plain causal input, which needs none."""
    return None if attention_mask is None else sdpa_mask(*args, attention_mask=attention_mask, **kwargs)


def register_attention() -> None:
    """Make :data:`PACKED_ATTENTION` known to transformers; may be called any number of times."""
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    AttentionMaskInterface.register(PACKED_ATTENTION, _mask_only_for_padding)
