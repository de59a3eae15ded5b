"""InternVideo2: a vision transformer over clips of a few frames, with learned positions and a class token.

Clips and pictures have tables of positions of their own. Queries and keys are normalised over all heads together, and
each branch of a block is scaled by a learned vector.

Legend: n clips, t frames of a clip, N patches of a frame, C width.
Source: InternVideo2 (arXiv:2403.15377); clips of four frames as in arXiv:2501.00574.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch
from torch import Tensor, nn

from vidtune.models.initial import NormalLinear
from vidtune.models.towers.clipwise import (
    ClipwiseTower,
    ClipwiseTowerConfig,
    FeedForward,
    PatchEmbedding,
    attend,
    resized,
)

NORM_EPS = 1e-6
LAYER_SCALE = 1e-5
"""First value of the vectors that scale the branches of a block."""
CLASS_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class InternVideo2TowerConfig(ClipwiseTowerConfig):
    """Sizes of the tower; the defaults are the published ones (1B at 224 pixels).

    Args:
        drop_path: probability of skipping a branch of the last block; it grows linearly from 0 at the first. In
            training only.
    """

    hidden_size: int = 1408
    intermediate_size: int = 6144
    num_hidden_layers: int = 39
    patch_size: int = 14
    drop_path: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % 16:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of 16, which its positions need")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path {self.drop_path} is outside 0..1")

    def build(self) -> "InternVideo2Tower":
        return InternVideo2Tower(self)

    def fitted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a tower for other frames, with its tables of positions resized to the sizes of this one."""
        frames = {"pos_embed": self.clip_frames, "img_pos_embed": 1}
        if not frames.keys() <= state.keys():
            return dict(state)
        side = isqrt(state["img_pos_embed"].shape[1] - 1)
        tables = {name: resized_table(state[name], side, number, self.side) for name, number in frames.items()}
        return {**state, **tables}


class RMSNorm(nn.Module):
    """Divides by the root of the mean square, taken in float32. Shape: (..., C) -> (..., C)"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + NORM_EPS)).to(x.dtype)


class LayerScale(nn.Module):
    """Multiplies every channel by a learned number, in float32. Shape: (..., C) -> (..., C)"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, LAYER_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() * self.weight.float()).to(x.dtype)


class DropPath(nn.Module):
    """In training sets the branch of a clip to zero at random, and scales up the others. (n, L, C) -> (n, L, C)"""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.probability):
            return x
        kept = 1 - self.probability
        return x * (torch.rand(len(x), 1, 1, device=x.device) < kept).to(x.dtype) / kept


class InternVideo2Attention(nn.Module):
    """Attention with normalised queries and keys. Shape: (n, L, C) -> (n, L, C)"""

    def __init__(self, config: InternVideo2TowerConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.qkv = NormalLinear(width, 3 * width, bias=False)
        self.q_norm = RMSNorm(width)
        self.k_norm = RMSNorm(width)
        self.proj = NormalLinear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.qkv(x).chunk(3, dim=-1)
        return self.proj(attend(self.q_norm(queries), self.k_norm(keys), values, self.heads))


class InternVideo2Block(nn.Module):
    """Attention and feed-forward part, each with a norm, a scale and a residual connection. (n, L, C) -> (n, L, C)"""

    def __init__(self, config: InternVideo2TowerConfig, drop_path: float) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size)
        self.attn = InternVideo2Attention(config)
        self.ls1 = LayerScale(config.hidden_size)
        self.norm2 = RMSNorm(config.hidden_size)
        self.mlp = FeedForward(config)
        self.ls2 = LayerScale(config.hidden_size)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class InternVideo2Tower(ClipwiseTower):
    """The transformer without a norm at its end and without its class token. Parameter names are the published ones.

    Shapes and errors: see :class:`ClipwiseTower`.
    """

    config: InternVideo2TowerConfig

    def __init__(self, config: InternVideo2TowerConfig) -> None:
        super().__init__()
        self.config = config
        width, patches = config.hidden_size, config.tokens_per_frame
        self.patch_embed = PatchEmbedding(config)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.clip_frames * patches, width))
        self.img_pos_embed = nn.Parameter(torch.empty(1, 1 + patches, width))
        rates = np.linspace(0, config.drop_path, config.num_hidden_layers).tolist()
        self.blocks = nn.ModuleList([InternVideo2Block(config, rate) for rate in rates])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start positions as sines and cosines of time, column and row."""
        nn.init.normal_(self.cls_token, std=CLASS_STD)
        with torch.no_grad():
            for table, frames in ((self.pos_embed, self.config.clip_frames), (self.img_pos_embed, 1)):
                table.copy_(sincos_table(self.config.hidden_size, frames, self.config.side))

    def with_class_token(self, clips: Tensor) -> Tensor:
        """Output of the last block, class token first. Shape: (n, 3, t, S, S) -> (n, 1 + t * N, C)"""
        patches = self.patch_embed(clips)
        positions = self.img_pos_embed if clips.shape[2] == 1 else self.pos_embed
        hidden = torch.cat([self.cls_token.expand(len(clips), 1, -1), patches], dim=1) + positions
        for block in self.blocks:
            hidden = block(hidden)
        return hidden

    def encode(self, clips: Tensor) -> Tensor:
        return self.with_class_token(clips)[:, 1:]


def sincos_table(width: int, frames: int, side: int) -> Tensor:
    """Positions of a class token (zeros) and of the patches of a clip.

    A quarter of the channels tells the frame; the others tell the column, then the row, in equal parts.

    Shape: float32 (1, 1 + frames * side * side, width)
    """
    quarter, half = width // 4, width * 3 // 8
    times, places = sincos(quarter, frames), sincos(half, side)
    parts = (times[:, None, None], places[None, None], places[None, :, None])  # frame, column, row
    table = np.concatenate([np.broadcast_to(part, (frames, side, side, part.shape[-1])) for part in parts], axis=-1)
    table = table.reshape(-1, width)
    return torch.from_numpy(np.concatenate([np.zeros((1, width)), table])[None]).float()


def sincos(width: int, length: int) -> np.ndarray:
    """Sines, then cosines, of positions 0, 1, ... Shape: float64 (length, width)"""
    rates = 10_000.0 ** -(np.arange(width // 2) / (width / 2))
    angles = np.arange(length)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def resized_table(table: Tensor, old_side: int, frames: int, side: int) -> Tensor:
    """A table with a class token first, for other frames of another size; the class token keeps its row.

    Shape: (1, 1 + f * old_side^2, C) -> (1, 1 + frames * side^2, C)
    """
    old = table[0, 1:].unflatten(0, (-1, old_side, old_side)).float().numpy()
    new = torch.from_numpy(resized(old, frames, side)).flatten(0, 2).to(table.dtype)
    return torch.cat([table[:, :1], new[None]], dim=1)
