"""LanguageBind's image and video towers as files: a tower of one published system, the teacher of another.

Source: arXiv:2310.01852, github.com/PKU-YuanGroup/LanguageBind.
"""

from collections.abc import Mapping
from typing import Any

from transformers import CLIPVisionConfig

from vidtune.checkpoints.files.settings import KnownSettings
from vidtune.checkpoints.parts.model_settings import settings_of
from vidtune.checkpoints.publication import JsonDict, KeyMap, TowerFile

TOWER_KEYS = KeyMap(
    (("vision_model.", ""),),
    (
        r"text_model\.",
        r"visual_projection\.",
        r"text_projection\.",
        r"logit_scale$",
        r".*\.rotary_emb\.inv_freq$",
        r".*\.position_ids$",
    ),
)
"""Key map: names in the file of a lone tower -> names below our tower."""


def tower_sizes(config: JsonDict, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the sizes in the config.json of a LanguageBind tower.

    Raises:
        ValueError: a file without a config, which does not hold the sizes, or a tower with unmerged LoRA layers.
    """
    if shapes:
        raise ValueError("a file tells nothing about this tower; give the folder with its config.json")
    vision = config.get("vision_config", config)
    if vision.get("lora_r"):
        raise ValueError("this tower still holds LoRA layers (lora_r != 0); use the merged one")
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    sizes = {name: vision[name] for name in (*names, "hidden_act", "layer_norm_eps") if name in vision}
    if vision.get("add_time_attn"):
        sizes |= {"num_frames": vision["num_frames"], "temporal_attention": True}
    return sizes


_VISION = settings_of(CLIPVisionConfig) | KnownSettings(
    read=frozenset({"lora_r", "add_time_attn", "num_frames"}),
    only={"num_channels": (3,)},
    ignored={
        "how it was trained": ("lora_alpha", "lora_dropout", "force_patch_dropout", "dropout", "*_drop*"),
        "settings of other media and of text": ("num_mel_bins", "target_length", "audio_*", "max_depth", "vocab_size"),
        "how frames are read": ("video_decode_backend",),
    },
)
SETTINGS = _VISION | KnownSettings(
    nested={"vision_config": _VISION},
    ignored={
        "the text beside it": ("text_config", "*_config_dict", "logit_scale_init_value", "initializer_factor"),
        "the width of its comparison with text": ("projection_dim",),
    },
)
"""Settings of a folder of LanguageBind, or of its vision part alone."""
LANGUAGEBIND_TOWER = TowerFile(TOWER_KEYS, tower_sizes, SETTINGS)
"""How a ``clip`` tower is published: a folder of LanguageBind."""
