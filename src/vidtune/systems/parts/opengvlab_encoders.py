"""Vision encoders over clips of four frames as OpenGVLab publishes them for training: one ``.pt`` file each.

A file holds one block more than models run. A file of UMT whose last norm is named ``vision_layernorm`` was taken from
a trained model, and has no such block.

Source: github.com/OpenGVLab/VideoChat-Flash, ``UMT-L_f4_vision.pt`` and ``InternVideo2-1B_f4_vision.pt``.
"""

import re
from collections.abc import Mapping

from vidtune.checkpoints.publication import JsonDict, KeyMap, State, TowerFile

_BLOCK = re.compile(r"((?:encoder\.)?blocks\.)(\d+)\.")
UMT_PARTS = r"encoder\.(?:patch_embed|blocks|norm|vision_layernorm)\."
"""Pattern of the names of UMT's tensors."""
_UNUSED = "unused."
_LAST_BLOCK = (re.escape(_UNUSED), "the last block, which models do not run")


def _run_blocks(names: Mapping[str, object]) -> int:
    """Number of the blocks that models run."""
    blocks = {int(match[2]) for match in map(_BLOCK.match, names) if match}
    return max(blocks, default=-1) + 1 - ("encoder.vision_layernorm.weight" not in names)


def set_aside(state: State) -> State:
    """Put the block that does not run under another name, and give scales of branches the name ``weight``."""
    runs = _run_blocks(state)
    ours: State = {}
    for name, tensor in state.items():
        block = _BLOCK.match(name)
        unused = block is not None and int(block[2]) >= runs
        ours[_UNUSED * unused + re.sub(r"\.(ls[12])\.gamma$", r".\1.weight", name)] = tensor
    return ours


def _sizes(what: str, encoder: str, shapes: Mapping[str, tuple[int, ...]]) -> JsonDict:
    if not shapes:
        raise ValueError(f"a config tells nothing about this tower; give the .pt file of {what}")
    patches, first = f"{encoder}patch_embed.proj.weight", f"{encoder}blocks.0.mlp.fc1.weight"
    if patches not in shapes or first not in shapes or len(shapes[patches]) != 5:
        raise ValueError(f"holds no tensors {patches} and {first} of {what}")
    return {
        "hidden_size": shapes[patches][0],
        "patch_size": shapes[patches][-1],
        "intermediate_size": shapes[first][0],
        "num_hidden_layers": _run_blocks(shapes),
    }


def umt_sizes(settings: JsonDict, shapes: Mapping[str, tuple[int, ...]]) -> JsonDict:
    """Return the sizes of a ``umt`` tower that a file tells. It reads frames of any size, and does not tell heads.

    Raises:
        ValueError: a file of another model.
    """
    if "encoder.blocks.0.attn.q_bias" not in shapes and shapes:
        raise ValueError("holds no tensor encoder.blocks.0.attn.q_bias of UMT")
    return _sizes("UMT", "encoder.", shapes)


def internvideo2_sizes(settings: JsonDict, shapes: Mapping[str, tuple[int, ...]]) -> JsonDict:
    """Return the sizes of an ``internvideo2`` tower that a file tells. Its tables of positions fit frames of any size.

    Raises:
        ValueError: a file of another model.
    """
    if "blocks.0.attn.q_norm.weight" not in shapes and shapes:
        raise ValueError("holds no tensor blocks.0.attn.q_norm.weight of InternVideo2")
    return _sizes("InternVideo2", "", shapes)


UMT_TOWER = TowerFile(
    KeyMap(
        (
            ("encoder.vision_layernorm.", "vision_layernorm."),
            ("encoder.norm.", "vision_layernorm."),
            ("encoder.", ""),
        ),
        left_out=(_LAST_BLOCK, (rf"(?!{UMT_PARTS})", "other parts of the pre-trained model")),
        rewrite=set_aside,
    ),
    umt_sizes,
)
"""How a ``umt`` tower is published: ``UMT-L_f4_vision.pt``."""
INTERNVIDEO2_TOWER = TowerFile(
    KeyMap(
        (("", ""),),
        left_out=(
            _LAST_BLOCK,
            (r"(?!blocks\.|patch_embed\.|cls_token$|(img_)?pos_embed$)", "other parts of the pre-trained model"),
        ),
        rewrite=set_aside,
    ),
    internvideo2_sizes,
)
"""How an ``internvideo2`` tower is published: ``InternVideo2-1B_f4_vision.pt``."""
