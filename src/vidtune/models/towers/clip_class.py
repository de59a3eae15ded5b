"""CLIP vision tower that returns one vector per frame: the projected class token, which CLIP compares with text.

Legend: B items, T frames, S side of a frame in pixels, W width of the transformer, C projected width.
Source: CLIP (arXiv:2103.00020, github.com/openai/CLIP), ``encode_image``; the vectors are not normalised.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidtune.models.towers.clip import ClipTower, ClipTowerConfig

FRAMES_AT_ONCE = 32
"""Number of frames that run through the layers together. It limits memory only; the results do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class ClipClassTowerConfig:
    """Sizes of the tower; the defaults are ViT-L/14 and 100 frames.

    Args:
        hidden_size: projected width C, the width of the features.
        width: width W of the transformer.
        num_frames: number of frames of a clip; other numbers and single pictures work too.
    """

    hidden_size: int = 768
    width: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    num_frames: int = 100
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        _ = self.transformer

    @property
    def transformer(self) -> ClipTowerConfig:
        """Config of the same tower without the projection."""
        return ClipTowerConfig(
            hidden_size=self.width,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            image_size=self.image_size,
            patch_size=self.patch_size,
            hidden_act=self.hidden_act,
            layer_norm_eps=self.layer_norm_eps,
            feature_layer=-1,
            keep_class_token=True,
        )

    pools_projected = True

    @property
    def pooled_size(self) -> int:
        """Width of the pooled output, the mean of the vectors of the frames."""
        return self.hidden_size

    def input_shape(self) -> tuple[int, ...]:
        """A clip: (3, T, S, S)."""
        return (3, self.num_frames, self.image_size, self.image_size)

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """One token per frame of a clip (3, T, S, S), one for a picture (3, S, S)."""
        return shape[1] if len(shape) == 4 else 1

    def build(self) -> "ClipClassTower":
        return ClipClassTower(self)


class ClipClassTower(nn.Module):
    """CLIP vision transformer with its projection; parameter names are those of transformers.

    Shape: (B, 3, T, S, S) -> (B, T, C), or (B, 3, S, S) -> (B, 1, C)
    """

    def __init__(self, config: ClipClassTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = ClipTower(config.transformer)
        self.visual_projection = nn.Linear(config.width, config.hidden_size, bias=False)

    def encode(self, frames: Tensor) -> Tensor:
        """Shape: (B * T, 3, S, S) -> (B * T, C)"""
        model = self.vision_model
        hidden = model.pre_layrnorm(model.embeddings(frames))
        for layer in model.encoder.layers:
            hidden = layer(hidden, None)
        return self.visual_projection(model.post_layernorm(hidden[:, 0]))

    def pooled(self, pixels: Tensor) -> Tensor:
        """Mean of the vectors of the frames. Shape: (B, 3, T, S, S) or (B, 3, S, S) -> (B, C)"""
        return self(pixels).mean(1)

    def forward(self, pixels: Tensor) -> Tensor:
        clips = pixels if pixels.dim() == 5 else pixels.unsqueeze(2)
        frames = clips.transpose(1, 2).flatten(0, 1)
        features = torch.cat([self.encode(part) for part in frames.split(FRAMES_AT_ONCE)])
        return features.unflatten(0, clips.shape[:1] + clips.shape[2:3])
