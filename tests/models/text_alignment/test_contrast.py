"""Text tower, logits and losses against those of transformers, with the same random weights."""

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, SiglipConfig, SiglipModel

from vidtune.models.text_alignment.contrast import (
    Contrast,
    ContrastConfig,
    contrast_loss,
    sigmoid_loss,
    softmax_loss,
)
from vidtune.models.towers.clip import ClipTowerConfig
from vidtune.models.towers.clip_class import ClipClassTowerConfig

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SIZES, "vocab_size": 60, "max_position_embeddings": 12, "bos_token_id": 58, "eos_token_id": 59}
VISION = {**SIZES, "image_size": 28, "patch_size": 14}
IDS = [[58, 3, 4, 59], [58, 7, 9, 11, 2, 5, 59], [58, 59]]


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)).eval()


@pytest.fixture(scope="module")
def ours(clip: CLIPModel) -> Contrast:
    text = CLIPTextConfig(**TEXT, projection_dim=16)
    contrast = ContrastConfig(text=text, projections={"image": 32}).build().eval()
    names = ("text_model.", "text_projection.")
    state = {f"text_tower.{name}": value for name, value in clip.state_dict().items() if name.startswith(names)}
    state |= {"projections.image.weight": clip.visual_projection.weight.detach()}
    state |= {"temperature.logit_scale": clip.logit_scale.detach().reshape(1)}
    found = contrast.load_state_dict(state, strict=False)
    assert not found.unexpected_keys and all(name.endswith("position_ids") for name in found.missing_keys)
    return contrast


def pixels() -> torch.Tensor:
    return torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_logits_and_loss_are_those_of_clip(clip: CLIPModel, ours: Contrast) -> None:
    padded = torch.tensor([ids + [59] * (7 - len(ids)) for ids in IDS])
    expected = clip(input_ids=padded, pixel_values=pixels(), return_loss=True)
    tower = ClipTowerConfig(**VISION, hidden_act="quick_gelu").build()
    prefix = "vision_model."
    state = {name.removeprefix(prefix): v for name, v in clip.state_dict().items() if name.startswith(prefix)}
    assert not tower.load_state_dict(state, strict=False).missing_keys
    media = torch.nn.functional.normalize(ours.projections["image"](tower.pooled(pixels())), dim=-1)
    texts = ours.texts([torch.tensor(ids) for ids in IDS])
    scale, bias = ours.temperature()
    torch.testing.assert_close(texts, expected.text_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(scale * media @ texts.t() + bias, expected.logits_per_image, atol=1e-5, rtol=0)
    assert float(softmax_loss(media, texts, scale)) / 3 == pytest.approx(float(expected.loss), abs=1e-5)


@torch.no_grad()
def test_sigmoid_logits_and_loss_are_those_of_siglip() -> None:
    torch.manual_seed(0)
    text = {**SIZES, "vocab_size": 60, "max_position_embeddings": 7, "bos_token_id": 58, "eos_token_id": 59}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)).eval()
    model.logit_bias.fill_(-2.0)
    model.logit_scale.fill_(1.5)
    padded = torch.tensor([ids + [1] * (7 - len(ids)) for ids in IDS])
    expected = model(input_ids=padded, pixel_values=pixels(), return_loss=True)
    sizes = ContrastConfig(
        text=CLIPTextConfig(**TEXT),
        projections={},
        loss="sigmoid",
        temperature=float(torch.tensor(-1.5).exp()),
        bias=-2.0,
    )
    scale, bias = sizes.build().temperature()
    media, texts = expected.image_embeds, expected.text_embeds
    torch.testing.assert_close(scale * texts @ media.t() + bias, expected.logits_per_text, atol=1e-5, rtol=0)
    assert float(sigmoid_loss(media, texts, scale, bias)) / 3 == pytest.approx(float(expected.loss), abs=1e-5)


def test_media_of_different_streams_are_not_compared() -> None:
    generator = torch.Generator().manual_seed(2)
    media, texts = torch.randn(2, 5, 4, generator=generator).unbind()
    kinds, scale, bias = torch.tensor([1, 0, 1, 0, 1]), torch.tensor([2.0]), torch.zeros(1)
    expected = sum(softmax_loss(media[kinds == kind], texts[kinds == kind], scale) for kind in (0, 1))
    assert float(contrast_loss(media, texts, kinds, scale, bias)) == pytest.approx(float(expected))
    assert float(contrast_loss(media[:1], texts[:1], kinds[:1], scale, bias)) == 0


@torch.no_grad()
@pytest.mark.parametrize("temporal", [False, True])
def test_pooled_output_computes_the_last_layer_of_the_class_token_alone(temporal: bool) -> None:
    torch.manual_seed(0)
    tower = ClipTowerConfig(**VISION, num_frames=4, temporal_attention=temporal).build().eval()
    frames = torch.randn(2, 3, 4, 28, 28)
    *_, last = tower.hidden_states(frames.transpose(1, 2).flatten(0, 1))
    expected = tower.post_layernorm(last[:, 0]).unflatten(0, (2, 4)).mean(1)
    torch.testing.assert_close(tower.pooled(frames), expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_pooled_output_of_a_clip_is_the_mean_over_its_frames() -> None:
    frames = torch.randn(2, 3, 4, 28, 28, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    for config in (ClipTowerConfig(**VISION, num_frames=4), ClipClassTowerConfig(**VISION, width=32, num_frames=4)):
        tower = config.build()
        alone = torch.stack([tower.pooled(frames[:, :, frame]) for frame in range(4)]).mean(0)
        torch.testing.assert_close(tower.pooled(frames), alone, atol=1e-5, rtol=1e-5)
        assert tower.pooled(frames).shape == (2, config.pooled_size)
