"""Averaged features of clips, and the hidden states that are not averaged."""

import pytest
import torch
from tiny_models import TOWER

from vidtune.models.towers import clip_pooled
from vidtune.models.towers.base import tower_config
from vidtune.models.towers.clip import ClipTowerConfig
from vidtune.models.towers.clip_pooled import PooledClipTowerConfig
from vidtune.processing.stream_settings import Measure

PATCHES = (TOWER["image_size"] // TOWER["patch_size"]) ** 2


@pytest.mark.parametrize("frames", [1, 4, 7])
def test_a_clip_becomes_means_of_frames_and_of_patches(monkeypatch, frames):
    monkeypatch.setattr(clip_pooled, "FRAMES_AT_ONCE", 3)
    torch.manual_seed(0)
    config = PooledClipTowerConfig(**TOWER, pooled_frames=4)
    tower, clips = config.build().eval(), torch.randn(2, 3, frames, 16, 16)
    features = tower(clips)
    assert features.shape[1] == config.num_tokens((3, frames, 16, 16)) == max(frames, 4) + PATCHES
    for clip, found in zip(clips, features, strict=True):
        each = torch.stack([tower(clip[:, number][None])[0] for number in range(frames)])
        torch.testing.assert_close(found[:frames], each.mean(1), atol=1e-5, rtol=1e-5)
        assert not found[frames:-PATCHES].any()
        torch.testing.assert_close(found[-PATCHES:], each.mean(0), atol=1e-5, rtol=1e-5)


def test_pictures_and_tapped_states_are_those_of_a_plain_tower():
    torch.manual_seed(0)
    config = PooledClipTowerConfig(**TOWER, pooled_frames=4)
    tower, plain = config.build().eval(), ClipTowerConfig(**TOWER).build().eval()
    plain.load_state_dict(tower.state_dict())
    pictures, clips = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 3, 16, 16)
    assert torch.equal(tower(pictures), plain(pictures))
    assert torch.equal(tower(clips, taps=(2, 0)), plain(clips, taps=(2, 0)))
    assert config.state_tokens((3, 3, 16, 16)) == 3 * PATCHES
    assert len(config.token_grids((3, 16, 16))) == 1 and config.token_grids((3, 3, 16, 16)) == []


def test_the_cost_of_a_clip_counts_its_frames():
    tower = {"type": "clip_pooled", **TOWER, "pooled_frames": 4}
    measure = Measure(tower=tower, connector={"type": "mlp", "input_size": 16, "output_size": 32})
    found = measure((3, 3, 16, 16))
    assert (found.tokens, found.cost) == (4 + PATCHES, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep_class_token": True}, "keep_class_token and temporal_attention"),
        ({"pooled_frames": 0}, "pooled_frames 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tower_config({"type": "clip_pooled", **TOWER, **change})
