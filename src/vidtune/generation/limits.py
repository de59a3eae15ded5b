"""How much the answer engine can take at a time: tokens of a prompt, bytes of keys and values."""

import torch
from transformers import PreTrainedConfig

from vidtune.models.language_model.attention import rotary_limit


def context_length(config: PreTrainedConfig) -> int | None:
    """Largest number of tokens of prompt and answer that a language model reads rightly; None where it is not known."""
    limits = (getattr(config, "max_position_embeddings", None), rotary_limit(config))
    return min((limit for limit in limits if limit is not None), default=None)


def key_value_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Number of bytes of the keys and values of one token in all layers."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * config.num_hidden_layers * groups * head_dim * dtype.itemsize
