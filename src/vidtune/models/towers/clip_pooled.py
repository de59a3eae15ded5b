"""CLIP vision tower whose clips are averaged: one feature for each frame, and one for each patch.

Legend: B items, T frames, S side in pixels, F fewest rows of frames, P patches of a frame, C width, K tapped states.
Source: Maaz et al., arXiv:2306.05424, section 3.1, spatio-temporal features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vidtune.models.towers.clip import ClipTower, ClipTowerConfig
from vidtune.models.towers.token_grid import TokenGrid

FRAMES_AT_ONCE = 32
"""Most frames of all clips that are encoded together; bounds the memory of a long clip."""


@dataclass(frozen=True, kw_only=True)
class PooledClipTowerConfig(ClipTowerConfig):
    """Sizes of a CLIP tower that averages the features of clips; those of pictures stay as they are.

    Args:
        pooled_frames: fewest rows of frames; rows of frames that a clip does not have are zero.
    """

    pooled_frames: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_class_token or self.temporal_attention:
            raise ValueError("keep_class_token and temporal_attention are not for a tower that averages frames")
        if self.pooled_frames < 1:
            raise ValueError(f"pooled_frames {self.pooled_frames} is less than 1")

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """Number of features of an item: P of a picture (3, S, S), max(T, F) + P of a clip (3, T, S, S)."""
        frames = max(shape[1], self.pooled_frames) if len(shape) == 4 else 0
        return frames + self.tokens_per_frame

    def state_tokens(self, shape: tuple[int, ...]) -> int:
        """Number of features in a tapped state, T * P: nothing is averaged there."""
        return super().num_tokens(shape)

    def token_grids(self, shape: tuple[int, ...]) -> list[TokenGrid]:
        """Token grid of a picture; averaged features stand in none."""
        return [] if len(shape) == 4 else super().token_grids(shape)

    def build(self) -> "PooledClipTower":
        return PooledClipTower(self)


class PooledClipTower(ClipTower):
    """CLIP vision transformer that averages the features of clips over patches and over frames.

    Shape: (B, 3, S, S) -> (B, P, C), or (B, 3, T, S, S) -> (B, max(T, F) + P, C); with K ``taps`` (B, K, P, C) or
        (B, K, T * P, C).
    """

    config: PooledClipTowerConfig

    def forward(self, pixels: Tensor, taps: Sequence[int] = ()) -> Tensor:
        if taps or pixels.dim() == 4:
            return super().forward(pixels, taps)
        frames = pixels.transpose(1, 2).flatten(0, 1)
        encoded = torch.cat([super(PooledClipTower, self).forward(part) for part in frames.split(FRAMES_AT_ONCE)])
        return pooled(encoded.unflatten(0, (len(pixels), -1)), self.config.pooled_frames)


def pooled(features: Tensor, rows: int) -> Tensor:
    """Means over the patches of each frame, zeros up to ``rows``, means over the frames of each patch.

    Shape: (B, T, P, C) -> (B, max(T, rows) + P, C)
    """
    frames = features.mean(2)
    missing = frames.new_zeros(len(frames), max(rows - frames.shape[1], 0), frames.shape[2])
    return torch.cat([frames, missing, features.mean(1)], dim=1)
