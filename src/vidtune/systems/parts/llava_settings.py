"""Settings in the config.json of LLaVA-style checkpoints: the language model's, the projector's, and the others'.

Source: github.com/haotian-liu/LLaVA, `llava/model/multimodal_projector/builder.py`, `llava/model/llava_arch.py`.
"""

import json
import re

from transformers import LlamaConfig, PreTrainedConfig

from vidtune.checkpoints.files.settings import KnownSettings
from vidtune.checkpoints.parts.language_model import require_usable
from vidtune.checkpoints.parts.model_settings import require_one_rotary, settings_of
from vidtune.checkpoints.publication import JsonDict

_OF_THE_FILE = ("architectures", "dtype", "transformers_version")
LLAMA = settings_of(LlamaConfig) | KnownSettings(
    only={"sliding_window": (None,), "use_sliding_window": (False, None)},
)
"""Settings of a Llama."""
AROUND = KnownSettings(
    read=frozenset({"mm_projector_type", "mm_hidden_size", "mm_vision_select_layer"}),
    only={
        "mm_use_im_start_end": (False, None),
        "mm_use_im_patch_token": (False, None),
        "mm_vision_select_feature": ("patch", None),
        "mm_patch_merge_type": ("flat", None),
        "mm_resampler_type": (None,),
        "image_aspect_ratio": ("pad", "square", None),
        "image_grid_pinpoints": (None, []),
    },
    ignored={
        "how it was trained": (
            *("tune_*", "freeze_*", "unfreeze_*", "pretrain_*", "*_lr", "max_sequence_length", "use_mm_proj"),
            "mm_tunable_parts",
        ),
    },
    why={
        "mm_use_im_start_end": "the model was trained with tokens around its pictures",
        "mm_use_im_patch_token": "the model was trained with a further token",
    },
)
"""Settings that a LLaVA has around its language model."""
LLAVA = LLAMA | AROUND
"""Settings of a LLaVA around a Llama."""


def projector_depth(kind: str) -> int:
    """Return the number of layers of ``linear``, ``identity`` or ``mlpNx_gelu``. Raises ValueError for other names."""
    if kind in ("linear", "identity"):
        return int(kind == "linear")
    match = re.fullmatch(r"mlp(\d+)x_gelu", kind) if isinstance(kind, str) else None
    if not match:
        raise ValueError(f"mm_projector_type {kind!r} is not linear, identity or mlpNx_gelu")
    return int(match[1])


def projector_kind(depth: int) -> str:
    """Return the published name of a projector with this number of linear layers."""
    return {0: "identity", 1: "linear"}.get(depth, f"mlp{depth}x_gelu")


def read_text_config(
    config: JsonDict, kind: type[PreTrainedConfig] = LlamaConfig, known: KnownSettings = LLAMA
) -> PreTrainedConfig:
    """Return the config of the language model in a published config.json.

    Args:
        kind: class of its config.
        known: settings of such a language model.

    Raises:
        ValueError: unknown rotary positions, or a layer of the tower that is no number.
    """
    layer = config.get("mm_vision_select_layer")
    if layer is not None and type(layer) is not int:
        raise ValueError(f"mm_vision_select_layer is {layer!r}; expected the number of a layer")
    text = {key: value for key, value in config.items() if key in known.read and key not in _OF_THE_FILE}
    found = kind(**text)
    require_usable(found)
    require_one_rotary(config)
    return found


_COMPUTED = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "tie_word_embeddings"),
    *("attention_bias", "mlp_bias"),
)
_ROTARY = ("rope_theta", "rope_scaling", "rope_parameters")


def require_same_text(config: JsonDict, below: PreTrainedConfig) -> None:
    """Raise ValueError where the config.json of what stands on a language model contradicts that model."""
    for key in _COMPUTED:
        held = getattr(below, key, None)
        if config.get(key, held) not in (held, None):
            raise ValueError(f"{key} is {config[key]!r}, but {held!r} in the model on which it stands")
    require_one_rotary(config)
    told = {key: config[key] for key in _ROTARY if key in config}
    rotary = LlamaConfig(**told).rope_parameters if told else below.rope_parameters
    if rotary != below.rope_parameters:
        what = f"but {json.dumps(below.rope_parameters)} in the model on which it stands"
        raise ValueError(f"{', '.join(told)} give the rotary positions {json.dumps(rotary)}, {what}")


def text_of(config: JsonDict, key: str, default: str) -> str:
    """Return a setting that is a text; null and "" count as left out. Raises ValueError for anything else."""
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} is {json.dumps(value)}; expected a text")
    return value or default


def width_of(config: JsonDict) -> int | None:
    """Return ``mm_hidden_size``, the width of the features that the connector takes; None where it is not told.

    Raises:
        ValueError: it is no whole number above 0.
    """
    width = config.get("mm_hidden_size")
    if width is not None and (type(width) is not int or width < 1):
        raise ValueError(f"mm_hidden_size is {json.dumps(width)}; expected a whole number above 0")
    return width


def require_width(config: JsonDict, width: int) -> None:
    """Raise ValueError where ``mm_hidden_size`` is not the width of the features that the connector takes."""
    if (told := width_of(config)) not in (None, width):
        raise ValueError(f"mm_hidden_size is {told!r}, but the weights are for features of {width}")


def stored_sizes(config: JsonDict, group: str, name: str) -> JsonDict:
    """Return sizes of a tower or connector that this package wrote into a config.json; published ones hold none.

    Raises:
        ValueError: they are no sizes by name.
    """
    sizes = (config.get(f"vidtune_{group}") or {}).get(name, {})
    if not isinstance(sizes, dict):
        raise ValueError(f"vidtune_{group}: {name} is {json.dumps(sizes)}; expected its sizes by name")
    return dict(sizes)


def text_settings(text_config: PreTrainedConfig) -> JsonDict:
    """Return the settings of the language model, as published code reads them."""
    return {
        **text_config.to_diff_dict(),
        "vocab_size": text_config.vocab_size,
        "rope_theta": (text_config.rope_parameters or {}).get("rope_theta", 10000.0),
    }
