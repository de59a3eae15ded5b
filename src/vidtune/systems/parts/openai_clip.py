"""CLIP's vision towers as files: OpenAI's archives (``ViT-L-14.pt``) and the folders of transformers.

Source: arXiv:2103.00020, github.com/openai/CLIP; names of transformers as in openai/clip-vit-large-patch14.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from transformers import CLIPConfig, CLIPVisionConfig, PreTrainedConfig

from vidtune.checkpoints.files.settings import KnownSettings
from vidtune.checkpoints.parts.model_settings import settings_of
from vidtune.checkpoints.publication import JsonDict, KeyMap, State, TowerFile

_HEAD_WIDTH = 64
_RENAMED = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_PARTS = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_THEIR_LAYER, _OUR_LAYER = "visual.transformer.resblocks.", "vision_model.encoder.layers."
_PROJECTION, _OUR_PROJECTION = "visual.proj", "visual_projection.weight"
_FUSED = "qkv"


def from_openai(state: State) -> State:
    """Rename OpenAI's vision tensors to the names of transformers; all other tensors stay as they are.

    One matrix of OpenAI holds the rows of queries, keys and values and is split; the projection is transposed.
    """
    ours: State = {}
    for name, tensor in state.items():
        layer = re.fullmatch(re.escape(_THEIR_LAYER) + r"(\d+)\.(.+?)[._](weight|bias)", name)
        if name == _PROJECTION:
            ours[_OUR_PROJECTION] = tensor.T.contiguous()
        elif layer and layer[2] == "attn.in_proj":
            for letter, rows in zip(_FUSED, tensor.chunk(len(_FUSED)), strict=True):
                ours[f"{_OUR_LAYER}{layer[1]}.self_attn.{letter}_proj.{layer[3]}"] = rows
        elif layer and layer[2] in _PARTS:
            ours[f"{_OUR_LAYER}{layer[1]}.{_PARTS[layer[2]]}.{layer[3]}"] = tensor
        else:
            ours[_RENAMED.get(name, name)] = tensor
    return ours


def to_openai(state: State) -> State:
    """Rename tensors of transformers to OpenAI's names; the inverse of :func:`from_openai`."""
    renamed = {ours: theirs for theirs, ours in _RENAMED.items()}
    parts = {ours: theirs for theirs, ours in _PARTS.items()}
    theirs: State = {}
    for name, tensor in state.items():
        layer = re.fullmatch(re.escape(_OUR_LAYER) + r"(\d+)\.(.+)\.(weight|bias)", name)
        if name == _OUR_PROJECTION:
            theirs[_PROJECTION] = tensor.T.contiguous()
        elif layer and layer[2] in parts:
            theirs[f"{_THEIR_LAYER}{layer[1]}.{parts[layer[2]]}.{layer[3]}"] = tensor
        elif layer and layer[2] == "self_attn.q_proj":
            rows = [state[name.replace("q_proj", f"{letter}_proj")] for letter in _FUSED]
            theirs[f"{_THEIR_LAYER}{layer[1]}.attn.in_proj_{layer[3]}"] = torch.cat(rows)
        elif not (layer and layer[2] in ("self_attn.k_proj", "self_attn.v_proj")):
            theirs[renamed.get(name, name)] = tensor
    return theirs


CLASS_KEYS = KeyMap(
    (("vision_model.", "vision_model."), ("visual_projection.", "visual_projection.")),
    ignored=(r".*\.position_ids$", r"(input_resolution|context_length|vocab_size)$"),
    left_out=(
        (
            r"(text_model|text_projection|transformer|token_embedding|positional_embedding|ln_final|logit_scale)\b",
            "the text tower",
        ),
    ),
    rewrite=from_openai,
    restore=to_openai,
)
"""Key map: names in archives of OpenAI and folders of transformers -> names below a tower of type ``clip_class``."""
PATCH_KEYS = replace(
    CLASS_KEYS,
    prefixes=(("vision_model.", ""),),
    left_out=(*CLASS_KEYS.left_out, (r"visual_projection\b", "the projection of the class token")),
)
"""Key map: names in archives of OpenAI and folders of transformers -> names below a tower of type ``clip``."""


def class_tower_sizes(config: JsonDict, shapes: Mapping[str, tuple[int, ...]]) -> JsonDict:
    """Return the sizes of a ``clip_class`` tower from a config.json of transformers, or from shapes in an archive."""
    return _sizes_from_shapes(shapes) if shapes else _sizes_from_config(config)


def patch_tower_sizes(config: JsonDict, shapes: Mapping[str, tuple[int, ...]]) -> JsonDict:
    """Return the sizes of a ``clip`` tower from a config.json of transformers, or from shapes in an archive."""
    sizes = class_tower_sizes(config, shapes)
    width = sizes.pop("width")
    return {**sizes, "hidden_size": width}


def _sizes_from_config(config: JsonDict) -> JsonDict:
    if config.get("model_type") not in ("clip", "clip_vision_model"):
        raise ValueError(f"model_type {config.get('model_type')!r} is not CLIP")
    whole = "vision_config" in config or config["model_type"] == "clip"
    vision = CLIPConfig(**config).vision_config if whole else CLIPVisionConfig(**config)
    return {
        **patch_tower_settings(vision),
        "hidden_size": config.get("projection_dim", vision.projection_dim),
        "width": vision.hidden_size,
    }


def patch_tower_settings(vision: PreTrainedConfig) -> JsonDict:
    """Return the sizes of a ``clip`` tower from the config that transformers has of it."""
    return {
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_hidden_layers,
        "num_attention_heads": vision.num_attention_heads,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "hidden_act": vision.hidden_act,
        "layer_norm_eps": vision.layer_norm_eps,
    }


def patch_sizes(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> JsonDict:
    """Return the sizes of a ``clip`` tower below a prefix of a whole checkpoint, whose config.json does not hold them.

    Nothing is returned where the checkpoint does not hold the tower.
    """
    if prefix + "embeddings.class_embedding" not in shapes:
        return {}
    width = shapes[prefix + "embeddings.class_embedding"][0]
    patch = shapes[prefix + "embeddings.patch_embedding.weight"][-1]
    patches = shapes[prefix + "embeddings.position_embedding.weight"][0] - 1
    layers = {key[len(prefix) :].split(".")[2] for key in shapes if key.startswith(prefix + "encoder.layers.")}
    return {
        "hidden_size": width,
        "intermediate_size": shapes[prefix + "encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, width // _HEAD_WIDTH),
        "patch_size": patch,
        "image_size": patch * round(patches**0.5),
    }


def _sizes_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> JsonDict:
    """Sizes from the shapes in an archive, which holds no settings; these are the same for all archives of OpenAI."""
    if _PROJECTION not in shapes:
        raise ValueError("no vision transformer of OpenAI's (no tensor visual.proj); of transformers' give the folder")
    width, projected = shapes[_PROJECTION]
    patch = shapes["visual.conv1.weight"][-1]
    patches = shapes["visual.positional_embedding"][0] - 1
    return {
        "hidden_size": projected,
        "width": width,
        "intermediate_size": shapes[_THEIR_LAYER + "0.mlp.c_fc.weight"][0],
        "num_hidden_layers": len({name.split(".")[3] for name in shapes if name.startswith(_THEIR_LAYER)}),
        "num_attention_heads": max(1, width // _HEAD_WIDTH),
        "image_size": patch * round(patches**0.5),
        "patch_size": patch,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }


_VISION = settings_of(CLIPVisionConfig) | KnownSettings(only={"num_channels": (3,)}, ignored={"text": ("vocab_size",)})
SETTINGS = (
    settings_of(CLIPConfig)
    | _VISION
    | KnownSettings(nested={"vision_config": _VISION}, ignored={"text": ("text_config", "*_config_dict")})
)
"""Settings of a folder of CLIP, or of its vision part alone."""
CLASS_TOWER = TowerFile(CLASS_KEYS, class_tower_sizes, SETTINGS)
"""How a ``clip_class`` tower is published: ``ViT-*.pt``, or a folder of transformers."""
PATCH_TOWER = TowerFile(PATCH_KEYS, patch_tower_sizes, SETTINGS)
"""How a ``clip`` tower is published: as a ``clip_class`` tower, whose projection is left out."""
