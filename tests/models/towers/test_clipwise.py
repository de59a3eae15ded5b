"""Towers over clips of a few frames: items of every form, parts of bounded size, training."""

import pytest
import torch
from torch.testing import assert_close

from vidtune.models.towers import clipwise
from vidtune.models.towers.base import tower_config

TINY = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"image_size": 16, "patch_size": 8}
KINDS = ("umt", "internvideo2")


def tiny(kind, **sizes):
    torch.manual_seed(0)
    tower = tower_config({"type": kind, **TINY, **sizes}).build()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return tower


def video(frames, seed=1):
    return torch.randn(3, frames, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_clip_runs_as_it_runs_alone(kind, monkeypatch):
    tower = tiny(kind).eval()
    long, picture, tiles = video(12), video(1)[:, 0], torch.stack([video(1, seed) for seed in range(3)])
    alone = torch.cat([tower(long[None, :, start : start + 4])[0] for start in (0, 4, 8)])
    monkeypatch.setattr(clipwise, "TOKENS_AT_ONCE", 2 * 16)
    features = tower([long, picture, tiles, video(4)])
    assert_close(features[0], alone, atol=1e-5, rtol=0)
    assert_close(features[1], tower(picture[None])[0], atol=1e-5, rtol=0)
    assert_close(features[2], torch.cat([tower(tile[None])[0] for tile in tiles]), atol=1e-5, rtol=0)
    for item, block in zip([long, picture, tiles, video(4)], features, strict=True):
        assert block.shape == (tower.config.num_tokens(tuple(item.shape)), 32)
    assert tower.config.grid((3, 12, 16, 16)) == (12, 2, 2) and tower.config.grid((3, 1, 3, 16, 16)) is None
    moved = tower(video(4)[None])[0][:4] - tower(video(4)[None, :, :1].clone())[0]
    assert moved.abs().max() > 1e-3  # a frame of a clip sees the other frames, a picture does not


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_parts_are_those_of_the_whole(kind, monkeypatch):
    tower = tiny(kind).train()
    values = [video(12), video(1)[:, 0], video(8, 3)]

    def gradients():
        torch.manual_seed(3)
        tower.zero_grad()
        sum(block.square().sum() for block in tower(values)).backward()
        return {name: weight.grad.clone() for name, weight in tower.named_parameters()}

    if kind == "internvideo2":
        tower.config = tower_config({"type": kind, **TINY})
        for block in tower.blocks:
            block.drop_path.probability = 0.0  # which branches are dropped depends on the parts
    whole = gradients()
    monkeypatch.setattr(clipwise, "TOKENS_AT_ONCE", 16)
    for name, gradient in gradients().items():
        assert_close(gradient, whole[name], atol=1e-3, rtol=1e-4)
        assert gradient.abs().max() > 0, name


def test_paths_are_dropped_in_training_only():
    tower = tiny("internvideo2", drop_path=0.9)
    clips = torch.stack([video(4)] * 16)
    plain = tower.eval()(clips)
    dropped = tower.train()(clips)
    assert (dropped - plain).abs().amax((1, 2)).gt(1e-3).any()
    torch.manual_seed(0)
    first = tower(clips)
    torch.manual_seed(0)
    assert torch.equal(tower(clips), first)
    assert torch.equal(tower.eval()(clips), plain)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_bfloat16_is_near(kind):
    tower, clip = tiny(kind).eval(), video(4)[None]
    plain = tower(clip)
    half = tower.to(torch.bfloat16)(clip.bfloat16())
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), plain, atol=0.15, rtol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_refused(kind):
    tower = tiny(kind)
    for frames, fitting in ((6, "4 or 8 frames"), (3, "give 4 frames")):
        with pytest.raises(ValueError, match=fitting):
            tower.config.num_tokens((3, frames, 16, 16))
        with pytest.raises(ValueError, match=fitting):
            tower([video(frames)])
    for wrong in (torch.zeros(3, 4, 16, 24), torch.zeros(1, 4, 16, 16), torch.zeros(2, 1, 4, 16, 16)):
        with pytest.raises(ValueError, match="frames \\(3, 16, 16\\)"):
            tower([wrong])
    for sizes, message in (
        ({"image_size": 20}, "20 is not a multiple of patch_size 8"),
        ({"num_attention_heads": 3}, "3 heads"),
        ({"clip_frames": 1}, "clip_frames 1"),
    ):
        with pytest.raises(ValueError, match=message):
            tower_config({"type": kind, **TINY, **sizes})
    if kind == "internvideo2":
        with pytest.raises(ValueError, match="multiple of 16"):
            tower_config({"type": kind, **TINY, "hidden_size": 40})


def test_weights_made_on_the_meta_device_start_as_others():
    """Positions that are not stored are there after weights are filled in."""
    for kind in KINDS:
        tower = tiny(kind).eval()
        with torch.device("meta"):
            empty = tower_config({"type": kind, **TINY}).build()
        empty.load_state_dict(tower.state_dict(), assign=True)
        assert torch.equal(empty.eval()(video(4)[None]), tower(video(4)[None]))


@torch.no_grad()
def test_the_last_norm_gives_the_dtype_of_the_blocks_where_autocast_norms_in_float32(monkeypatch):
    def as_on_a_gpu(x, *arguments):
        return layer_norm(x.float(), *arguments)

    layer_norm = torch.nn.functional.layer_norm
    monkeypatch.setattr(torch.nn.functional, "layer_norm", as_on_a_gpu)
    with torch.autocast("cpu", torch.bfloat16):
        assert tiny("umt")(video(4)[None]).dtype == torch.bfloat16
