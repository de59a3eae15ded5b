"""Our UMT and InternVideo2 towers against the official code; every size is read from the fixture."""

from dataclasses import replace

import pytest
import torch
from longvale_fixture import assert_restores, load_tower
from torch.testing import assert_close
from videochat_flash_fixture import read, tower_sizes

from vidtune.models.towers.base import tower_config
from vidtune.models.towers.internvideo2 import resized_table, sincos_table
from vidtune.models.towers.umt import position_table
from vidtune.systems.parts.opengvlab_encoders import INTERNVIDEO2_TOWER, UMT_TOWER, umt_sizes

PREFIX = "model.vision_tower.vision_tower."
KINDS = {"umt": "weights.safetensors", "iv2": "weights_internvideo2.safetensors"}
CLOSE = {"atol": 2e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def towers(config):
    """Both towers with the official weights."""
    found = {}
    for kind, file in KINDS.items():
        state = {
            name.removeprefix(PREFIX).removeprefix("encoder."): tensor
            for name, tensor in read(file).items()
            if name.startswith(PREFIX)
        }
        tower = tower_config(tower_sizes(config, kind)).build().eval()
        tower.load_state_dict(state)
        found[kind] = tower
    return found


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_clips_and_pictures_equal_the_original(towers, inputs, expected, kind):
    tower = towers[kind]
    video = inputs[f"{kind}.video"].transpose(0, 1)
    features = tower(video[None])[0]
    theirs = expected[f"{kind}.tower.video"]
    assert_close(features.view_as(theirs), theirs, **CLOSE)
    assert len(features) == tower.config.num_tokens(tuple(video.shape))
    pictures = inputs[f"{kind}.image"]
    theirs = expected[f"{kind}.tower.image"]
    assert_close(tower(pictures), theirs, **CLOSE)
    together = tower([pictures.unsqueeze(2), video])
    assert_close(together[0].view_as(theirs), theirs, **CLOSE)
    assert_close(together[1], features, atol=1e-5, rtol=0)


@torch.no_grad()
def test_steps_of_umt_equal_the_original(towers, inputs, expected):
    tower = towers["umt"]
    clip = tower.clips_of(inputs["umt.video"].transpose(0, 1))[:1]
    embedded = tower.embed(clip)
    assert_close(embedded[:, ::4], expected["umt.tower.embed_video_stride4"], **CLOSE)
    assert_close(tower.blocks[0](embedded)[:, ::4], expected["umt.tower.block0_video_stride4"], **CLOSE)


@torch.no_grad()
def test_the_class_token_of_internvideo2_equals_the_original(towers, inputs, expected):
    tower = towers["iv2"]
    clip = tower.clips_of(inputs["iv2.video"].transpose(0, 1))[:1]
    assert_close(tower.with_class_token(clip)[:, :8], expected["iv2.tower.with_cls_video_first8"], **CLOSE)


def test_positions_of_umt_equal_the_original(config, expected):
    sizes = config["dims"]["umt"]
    side, width = sizes["image_size"] // sizes["patch_size"], sizes["hidden"]
    close = {"atol": 5e-6, "rtol": 0}
    video, picture = (torch.from_numpy(position_table(width, frames, side)).float() for frames in (sizes["frames"], 1))
    assert_close(video[None, ::3], expected["umt.pos_embed"], **close)
    assert_close(picture[None], expected["umt.img_pos_embed"], **close)
    strides = {"umt224.video4": 21, "umt224.image": 9, "umt224.video8": 43}
    strides |= {"umt448.video4": 59, "umt448.image": 23, "umt448.video8": 101}
    for name, stride in strides.items():
        theirs = expected[f"pos.{name}"]
        frames = 1 if name.endswith("image") else int(name[-1])
        ours = position_table(theirs.shape[-1], frames, int(name[3:6]) // 16)[None, ::stride]
        assert_close(torch.from_numpy(ours).float(), theirs, **close)


def test_positions_of_internvideo2_equal_the_original(inputs, expected):
    for name, frames, stride in (("video4_init", 4, 21), ("image_init", 1, 9)):
        theirs = expected[f"pos.iv2_224.{name}"]
        assert_close(sincos_table(theirs.shape[-1], frames, 16)[0, ::stride], theirs, atol=5e-6, rtol=0)
    for name, frames in (("pos_embed", 4), ("img_pos_embed", 1)):
        theirs = expected[f"pos_interp.{name}"]
        ours = resized_table(inputs[f"pos_interp.{name}"], 6, frames, 9)
        assert_close(ours, theirs, atol=5e-6, rtol=0)


def test_published_names_and_shapes_are_those_of_full_towers():
    """Of the UMT tower at 448 pixels, and of InternVideo2."""
    for kind, file in (("umt", "full_keys.json"), ("internvideo2", "full_keys_internvideo2_vision_and_projector.json")):
        with torch.device("meta"):
            tower = tower_config({"type": kind}).build()
        theirs = {
            name.removeprefix(PREFIX).removeprefix("encoder."): tuple(shape)
            for name, shape in read(file).items()
            if name.startswith(PREFIX)
        }
        assert {name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()} == theirs


def _as_published(kind, state):
    """Tensors as in the file of the encoder alone: one block more, names of their own, other parts beside it."""
    if kind == "umt":
        state = {f"encoder.{name.replace('vision_layernorm', 'norm')}": tensor for name, tensor in state.items()}
    else:
        state = {name.replace("ls1.weight", "ls1.gamma"): tensor for name, tensor in state.items()}
    last = max(int(name.split("blocks.")[1].split(".")[0]) for name in state if "blocks." in name)
    extra = {name.replace(f"blocks.{last}.", f"blocks.{last + 1}."): tensor for name, tensor in state.items()}
    return {**extra, **state, "clip_projector.norm1_q.weight": torch.ones(3)}


@pytest.mark.parametrize(
    ("kind", "type_", "file"), [("umt", "umt", UMT_TOWER), ("iv2", "internvideo2", INTERNVIDEO2_TOWER)]
)
@torch.no_grad()
def test_published_files_give_the_same_tower(towers, inputs, tmp_path, kind, type_, file):
    ours = towers[kind]
    path = tmp_path / "encoder.pt"
    torch.save(_as_published(kind, ours.state_dict()), path)
    sizes = {"image_size": ours.config.image_size, "num_attention_heads": ours.config.num_attention_heads}
    tower, report = load_tower(type_, path, file, **sizes)
    pictures = inputs[f"{kind}.image"]
    assert tower.config == ours.config and torch.equal(tower(pictures), ours(pictures))
    assert report.left_out == {
        "other parts of the pre-trained model": 1,
        "the last block, which models do not run": sum("blocks.0." in name for name in ours.state_dict()),
    }
    with pytest.raises(ValueError, match="no tensor"):
        (INTERNVIDEO2_TOWER if kind == "umt" else UMT_TOWER).read_sizes({}, {"encoder.blocks.0.x": (1,)})
    with pytest.raises(ValueError, match=r"give the \.pt file"):
        file.read_sizes({"hidden_size": 3}, {})


def test_a_tower_of_umt_that_was_trained_keeps_all_its_blocks(towers, tmp_path):
    state = {f"encoder.{name}": tensor for name, tensor in towers["umt"].state_dict().items()}
    assert_restores(UMT_TOWER, state)
    assert umt_sizes({}, {name: tuple(tensor.shape) for name, tensor in state.items()})["num_hidden_layers"] == len(
        towers["umt"].blocks
    )


def test_learned_positions_fit_frames_of_another_size(towers):
    tower = towers["iv2"]
    larger = replace(tower.config, image_size=tower.config.image_size + 3 * tower.config.patch_size, clip_frames=8)
    state = larger.fitted(tower.state_dict())
    larger.build().load_state_dict(state)
    assert torch.equal(state["pos_embed"][:, :1], tower.pos_embed[:, :1])
    again = tower.config.fitted(state)
    assert_close(again["pos_embed"], tower.pos_embed, atol=0.3, rtol=0)
    assert torch.equal(tower.config.fitted(tower.state_dict())["pos_embed"], tower.pos_embed)
