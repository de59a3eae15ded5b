"""UMT: a vision transformer over clips of a few frames, with fixed positions.

Positions are one row of sines and cosines over all patches of a clip, frame by frame. They are made for 4 frames of
14 x 14 patches and resized to other grids, so that the same weights read frames of any size.

Legend: n clips, t frames of a clip, N patches of a frame, C width.
Source: Unmasked Teacher (arXiv:2303.16058); clips of four frames as in arXiv:2501.00574.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vidtune.models.initial import NormalLinear
from vidtune.models.towers.clipwise import (
    ClipwiseTower,
    ClipwiseTowerConfig,
    FeedForward,
    PatchEmbedding,
    attend,
    resized,
)

MADE_FOR = (4, 14)
"""Frames, and patches along a side, for which the positions are made."""
NORM_EPS, LAST_NORM_EPS = 1e-6, 1e-12


@dataclass(frozen=True, kw_only=True)
class UmtTowerConfig(ClipwiseTowerConfig):
    """Sizes of the tower; the defaults are the published ones (UMT-L at 224 pixels)."""

    def build(self) -> "UmtTower":
        return UmtTower(self)


class UmtAttention(nn.Module):
    """Attention whose queries and values have a bias, and whose keys have none. Shape: (n, L, C) -> (n, L, C)"""

    def __init__(self, config: UmtTowerConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.qkv = NormalLinear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = NormalLinear(width, width)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.q_bias)
        nn.init.zeros_(self.v_bias)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        queries, keys, values = functional.linear(x, self.qkv.weight, bias).chunk(3, dim=-1)
        return self.proj(attend(queries, keys, values, self.heads))


class UmtBlock(nn.Module):
    """Attention and feed-forward part, each after a norm and with a residual connection. (n, L, C) -> (n, L, C)"""

    def __init__(self, config: UmtTowerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=NORM_EPS)
        self.attn = UmtAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=NORM_EPS)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class UmtTower(ClipwiseTower):
    """The transformer, and a norm after its last block. Parameter names are the published ones without ``encoder.``.

    Shapes and errors: see :class:`ClipwiseTower`.
    """

    config: UmtTowerConfig

    def __init__(self, config: UmtTowerConfig) -> None:
        super().__init__()
        self.config = config
        self._tables: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}
        self.patch_embed = PatchEmbedding(config)
        self.blocks = nn.ModuleList([UmtBlock(config) for _ in range(config.num_hidden_layers)])
        self.vision_layernorm = nn.LayerNorm(config.hidden_size, eps=LAST_NORM_EPS)

    def embed(self, clips: Tensor) -> Tensor:
        """Patches with their positions. Shape: (n, 3, t, S, S) -> (n, t * N, C)"""
        patches = self.patch_embed(clips)
        kind = (clips.shape[2], patches.device, patches.dtype)
        if kind not in self._tables:
            table = position_table(self.config.hidden_size, clips.shape[2], self.config.side)
            self._tables[kind] = patches.new_tensor(table)
        return patches + self._tables[kind]

    def encode(self, clips: Tensor) -> Tensor:
        hidden = self.embed(clips)
        for block in self.blocks:
            hidden = block(hidden)
        # On a GPU autocast norms in float32; what follows compares features in the dtype of the blocks, as published.
        return self.vision_layernorm(hidden).to(hidden.dtype)


def position_table(width: int, frames: int, side: int) -> np.ndarray:
    """Positions of the patches of a clip, or of a picture (``frames`` 1).

    Shape: float64 (frames * side * side, width)
    """
    made_frames = 1 if frames == 1 else MADE_FOR[0]
    table = sinusoids(made_frames * MADE_FOR[1] ** 2, width).reshape(made_frames, MADE_FOR[1], MADE_FOR[1], width)
    return resized(table, frames, side).reshape(-1, width)


def sinusoids(length: int, width: int) -> np.ndarray:
    """Sines in even channels, cosines in odd ones. Shape: float64 (length, width)"""
    channels = np.arange(width)
    angles = np.arange(length)[:, None] / np.power(10_000, 2 * (channels // 2) / width)
    angles[:, 0::2], angles[:, 1::2] = np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])
    return angles
