"""LanguageBind's image and video towers as files: a tower of one published system, the teacher of another.

Source: arXiv:2310.01852, github.com/PKU-YuanGroup/LanguageBind.
"""

from collections.abc import Mapping
from typing import Any

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


LANGUAGEBIND_TOWER = TowerFile(TOWER_KEYS, tower_sizes)
"""How a ``clip`` tower is published: a folder of LanguageBind."""
