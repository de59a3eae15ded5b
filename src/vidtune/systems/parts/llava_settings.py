"""Settings in the config.json of LLaVA-style checkpoints: the language model's, and the depth of the projector.

Source: github.com/haotian-liu/LLaVA, `llava/model/multimodal_projector/builder.py`.
"""

import re

from transformers import AutoConfig, PreTrainedConfig

from vidtune.checkpoints.publication import JsonDict

_UNUSED = ("model_type", "architectures", "X", "torch_dtype", "dtype", "transformers_version", "auto_map")


def projector_depth(kind: str) -> int:
    """Return the number of layers of ``linear``, ``identity`` or ``mlpNx_gelu``. Raises ValueError for other names."""
    if kind in ("linear", "identity"):
        return int(kind == "linear")
    match = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if not match:
        raise ValueError(f"mm_projector_type {kind!r} is not linear, identity or mlpNx_gelu")
    return int(match[1])


def projector_kind(depth: int) -> str:
    """Return the published name of a projector with this number of linear layers."""
    return {0: "identity", 1: "linear"}.get(depth, f"mlp{depth}x_gelu")


def read_text_config(config: JsonDict, own: tuple[str, ...]) -> PreTrainedConfig:
    """Return the config of the Llama in a published config.json.

    Args:
        own: prefixes of the settings that belong to the other parts.
    """
    text = {key: value for key, value in config.items() if not key.startswith(own) and key not in _UNUSED}
    return AutoConfig.for_model("llama", **text)


def text_settings(text_config: PreTrainedConfig) -> JsonDict:
    """Return the settings of the language model, as published code reads them."""
    return {
        **text_config.to_diff_dict(),
        "vocab_size": text_config.vocab_size,
        "rope_theta": (text_config.rope_parameters or {}).get("rope_theta", 10000.0),
    }
