"""The class token of CLIP against the original's features and transformers' own model."""

import numpy as np
import pytest
import torch
from longvale_fixture import assert_keys_both_ways, assert_restores, expected, load_tower, needs_fixture, read, weights
from openai_archive import save_archive
from torch.testing import assert_close
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.models.towers import clip_class
from vidtune.models.towers.base import tower_config
from vidtune.models.towers.clip_class import ClipClassTowerConfig
from vidtune.systems.parts.openai_clip import CLASS_TOWER, class_tower_sizes

TINY = {
    "hidden_size": 12,
    "width": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "num_frames": 5,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "hidden_act": "quick_gelu",
    "projection_dim": 12,
}


def tiny():
    torch.manual_seed(0)
    return ClipClassTowerConfig(**TINY).build().eval()


def randomize(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The fixture's tower, through an archive of the kind that OpenAI published."""
    path = save_archive(weights("clip."), tmp_path_factory.mktemp("clip") / "ViT.pt")
    heads = read("config.json")["clip"]["heads"]
    tower, report = load_tower("clip_class", path, CLASS_TOWER, num_attention_heads=heads)
    assert report.left_out == {"the text tower": 2} and report.ignored == 3
    return tower


@needs_fixture
@torch.no_grad()
def test_feature_of_a_frame_equals_the_original(official):
    frame = read("inputs.safetensors")["clip.frame_half_u8"].repeat_interleave(2, 0).repeat_interleave(2, 1)
    size = official.config.image_size
    pixels = ImagePreprocessing(size=size, order="resize_then_normalize").apply(frame.numpy())[None]
    theirs = expected("clip.frame.")
    assert_close(pixels[..., ::3, ::3], theirs["pixels_stride3"], atol=1e-5, rtol=0)
    embedded = official.vision_model.pre_layrnorm(official.vision_model.embeddings(pixels))
    assert_close(embedded, theirs["ln_pre"], atol=5e-5, rtol=0)
    assert_close(official(pixels)[0], theirs["feature"], atol=5e-5, rtol=0)


@needs_fixture
@torch.no_grad()
def test_features_of_a_clip_equal_the_original(official):
    theirs = expected("clip.video.")
    video = read("inputs.safetensors")["clip.video_u8"].numpy()
    frames = video[theirs["sampled_indices"].numpy()]
    steps = VideoPreprocessing(size=official.config.image_size, num_frames=len(frames), interpolation="bicubic")
    clip = steps.apply(frames)
    shown = clip.transpose(0, 1)[[0, 33, 50, 99]][..., ::16, ::16]
    assert_close(shown, theirs["pixels_frames_0_33_50_99_stride16"], atol=1e-5, rtol=0)
    features = official(clip[None])[0]
    assert features.shape == (official.config.num_tokens(tuple(clip.shape)), official.config.hidden_size)
    assert_close(features, theirs["features"], atol=5e-5, rtol=0)


@needs_fixture
def test_published_keys_fit_at_full_size_both_ways():
    shapes = read("full_keys_parts.json")["clip_visual"]
    sizes = class_tower_sizes({}, {name: tuple(shape) for name, shape in shapes.items()})
    config = tower_config({"type": "clip_class", **sizes})
    assert config == ClipClassTowerConfig()
    with torch.device("meta"):
        tower = config.build()
    assert_keys_both_ways(tower, CLASS_TOWER, shapes)


@needs_fixture
def test_published_tensors_survive_reading_and_writing():
    assert_restores(CLASS_TOWER, weights("clip."))


@torch.no_grad()
def test_a_folder_of_the_whole_clip_model_gives_its_image_features(tmp_path):
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**text, "vocab_size": 30, "eos_token_id": 2}, vision_config=VISION, projection_dim=12
    )
    whole = randomize(CLIPModel(config))
    whole.save_pretrained(tmp_path)
    tower, report = load_tower("clip_class", tmp_path, CLASS_TOWER)
    pixels = torch.randn(3, 3, 16, 16)
    assert_close(tower(pixels)[:, 0], whole.get_image_features(pixels).pooler_output, atol=1e-5, rtol=0)
    assert report.left_out["the text tower"] > 10


@torch.no_grad()
def test_a_folder_of_the_vision_model_gives_its_embeddings(tmp_path):
    whole = randomize(CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)))
    whole.save_pretrained(tmp_path)
    tower, report = load_tower("clip_class", tmp_path, CLASS_TOWER)
    clips = torch.randn(2, 3, 4, 16, 16)
    frames = clips.transpose(1, 2).flatten(0, 1)
    assert_close(tower(clips).flatten(0, 1), whole(frames).image_embeds, atol=1e-5, rtol=0)
    assert report.left_out == {}


def test_what_is_not_clip_is_refused():
    with pytest.raises(ValueError, match="is not CLIP"):
        class_tower_sizes({"model_type": "siglip"}, {})
    with pytest.raises(ValueError, match=r"no tensor visual\.proj"):
        class_tower_sizes({}, {"visual.attnpool.c_proj.weight": (8, 8)})
    with pytest.raises(ValueError, match="3 heads"):
        ClipClassTowerConfig(**{**TINY, "num_attention_heads": 3})


@torch.no_grad()
def test_frames_run_in_parts_as_they_run_alone(monkeypatch):
    tower, clips = tiny(), torch.randn(3, 3, 5, 16, 16)
    monkeypatch.setattr(clip_class, "FRAMES_AT_ONCE", 4)
    features = tower(clips)
    assert features.shape == (3, 5, 12)
    for clip, of_clip in zip(clips, features, strict=True):
        alone = torch.cat([tower(frame[None])[0] for frame in clip.transpose(0, 1)])
        assert_close(of_clip, alone, atol=1e-5, rtol=0)
    assert tower(clips[:, :, 0]).shape == (3, 1, 12)
    assert tower.config.num_tokens((3, 5, 16, 16)) == 5 and tower.config.num_tokens((3, 16, 16)) == 1


@torch.no_grad()
def test_bfloat16_is_near():
    tower, clip = tiny(), torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 2, 16, 16), np.float32))
    plain = tower(clip)
    half = tower.to(torch.bfloat16)(clip.bfloat16())
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), plain, atol=0.05, rtol=0.05)


def test_every_weight_gets_a_gradient():
    tower = randomize(tiny())
    tower(torch.randn(1, 3, 2, 16, 16)).square().sum().backward()
    for name, parameter in tower.named_parameters():
        # A key's bias moves all logits of a query alike: softmax does not see it.
        assert name.endswith("k_proj.bias") or parameter.grad.abs().max() > 0, name
