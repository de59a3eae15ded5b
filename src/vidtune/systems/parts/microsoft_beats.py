"""BEATs as published: one pickled file of ``{"cfg": settings, "model": tensors}``.

Source: arXiv:2212.09058, github.com/microsoft/unilm/tree/master/beats.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from vidtune.checkpoints.publication import JsonDict, KeyMap, State, TowerFile

# Their setting -> our size, and the default of the original class, for a file without the setting.
_SIZES: dict[str, tuple[str, Any]] = {
    "input_patch_size": ("patch_size", -1),
    "embed_dim": ("patch_width", 512),
    "conv_bias": ("patch_bias", False),
    "encoder_layers": ("num_hidden_layers", 12),
    "encoder_embed_dim": ("hidden_size", 768),
    "encoder_ffn_embed_dim": ("intermediate_size", 3072),
    "encoder_attention_heads": ("num_attention_heads", 12),
    "activation_fn": ("hidden_act", "gelu"),
    "layer_wise_gradient_decay_ratio": ("gradient_decay", 1.0),
    "layer_norm_first": ("pre_norm", False),
    "deep_norm": ("deep_norm", False),
    "dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.0),
    "encoder_layerdrop": ("layer_dropout", 0.0),
    "dropout_input": ("input_dropout", 0.0),
    "conv_pos": ("position_kernel", 128),
    "conv_pos_groups": ("position_groups", 16),
    "relative_position_embedding": ("relative_positions", False),
    "num_buckets": ("num_buckets", 320),
    "max_distance": ("max_distance", 1280),
    "gru_rel_pos": ("gated_positions", False),
}
# Settings of the classifier at the end of a fine-tuned model; features are taken before it.
_OF_CLASSIFIER = {"finetuned_model", "predictor_dropout", "predictor_class"}

_REPEATED = re.compile(r"encoder\.layers\.(\d+)\.self_attn\.relative_attention_bias\.weight")
_SHARED = "encoder.relative_attention_bias.weight"
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


def beats_sizes(cfg: JsonDict, shapes: Mapping[str, tuple[int, ...]] | None = None) -> JsonDict:
    """Return the sizes of a ``beats`` tower from the settings in a published file.

    Raises:
        ValueError: no such settings, or one that we do not know.
    """
    if not cfg:
        raise ValueError("holds no settings (cfg) of BEATs; give the published .pt file")
    strange = sorted(cfg.keys() - _SIZES.keys() - _OF_CLASSIFIER)
    if strange:
        raise ValueError(f"settings that BEATs is not known to have: {', '.join(strange)}")
    return {ours: cfg.get(theirs, default) for theirs, (ours, default) in _SIZES.items()}


def share_bias(state: State) -> State:
    """Replace the copies of the relative position bias, one per layer, by the one tensor that they are.

    Raises:
        ValueError: the copies differ.
    """
    copies = {name: tensor for name, tensor in state.items() if _REPEATED.fullmatch(name)}
    ours = {name: tensor for name, tensor in state.items() if name not in copies}
    if not copies:
        return ours
    first, bias = next(iter(copies.items()))
    for name, tensor in copies.items():
        if tensor.shape != bias.shape or not (tensor.is_meta or torch.equal(tensor, bias)):
            raise ValueError(f"{first} and {name} are one tensor in BEATs but hold different values")
    return {**ours, _SHARED: bias}


def repeat_bias(state: State) -> State:
    """Write one copy of the relative position bias per layer again; the inverse of :func:`share_bias`."""
    if _SHARED not in state:
        return state
    layers = {int(match[1]) for match in map(_LAYER.match, state) if match}
    copies = {
        f"encoder.layers.{layer}.self_attn.relative_attention_bias.weight": state[_SHARED] for layer in sorted(layers)
    }
    return {**{name: tensor for name, tensor in state.items() if name != _SHARED}, **copies}


BEATS_KEYS = KeyMap(
    (
        ("encoder.pos_conv.0.weight_g", "encoder.pos_conv.gain"),
        ("encoder.pos_conv.0.weight_v", "encoder.pos_conv.direction"),
        ("encoder.pos_conv.0.parametrizations.weight.original0", "encoder.pos_conv.gain"),
        ("encoder.pos_conv.0.parametrizations.weight.original1", "encoder.pos_conv.direction"),
        ("encoder.pos_conv.0.bias", "encoder.pos_conv.bias"),
        ("encoder.", "encoder."),
        ("patch_embedding.", "patch_embedding."),
        ("layer_norm.", "layer_norm."),
        ("post_extract_proj.", "post_extract_proj."),
    ),
    left_out=((r"predictor\.", "the classifier of a fine-tuned model"),),
    rewrite=share_bias,
    restore=repeat_bias,
)
"""Key map: names in a published file -> names below a tower of type ``beats``."""

BEATS_TOWER = TowerFile(BEATS_KEYS, beats_sizes)
"""How a ``beats`` tower is published: one ``.pt`` file."""
