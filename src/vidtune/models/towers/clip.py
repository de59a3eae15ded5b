"""CLIP vision tower for images and clips, with optional attention over time.

Legend: B items, T frames, H/W pixels, P patches per frame, F = P + 1 tokens per frame (class token first), C width.
Source: CLIP (arXiv:2103.00020); attention over time as in LanguageBind (arXiv:2310.01852,
github.com/PKU-YuanGroup/LanguageBind).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import CLIPVisionConfig
from transformers.activations import QuickGELUActivation
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer

from vidtune.models.towers.clipwise import resized
from vidtune.models.towers.token_grid import TokenGrid

QUICK = 1.702
"""Factor of the activation ``quick_gelu``."""
OVER_TIME = "temporal_embedding"
"""Name of the tables of positions over time, one in every layer."""
POSITION_STD, TIME_STD = 0.1, 0.5
"""Standard deviations of new embeddings of places, which are added to patches, and of times, which are added to hidden
states of about size 1; large enough for a tower that is trained from scratch: with smaller times it learns directions
of motion last, or not at all."""


@dataclass(frozen=True, kw_only=True)
class ClipTowerConfig:
    """Sizes of a CLIP vision tower; the defaults are ViT-L/14.

    Args:
        num_frames: number of frames per clip; None for a tower of single images.
        temporal_attention: every layer first attends over time; needs exactly ``num_frames`` frames per clip.
        feature_layer: index of the hidden state that is returned, counted from the end (-1: after the last layer).
        keep_class_token: whether the class token is one of the features.
    """

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    num_frames: int | None = None
    temporal_attention: bool = False
    feature_layer: int = -2
    keep_class_token: bool = False

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} heads")
        if not -self.num_hidden_layers <= self.feature_layer <= -1:
            raise ValueError(
                f"feature_layer {self.feature_layer} is outside -{self.num_hidden_layers}..-1 with num_hidden_layers "
                f"{self.num_hidden_layers}"
                + (f"; it needs num_hidden_layers of at least {-self.feature_layer}" if self.feature_layer < 0 else "")
            )
        if self.temporal_attention and not self.num_frames:
            raise ValueError("temporal_attention needs num_frames")

    @property
    def num_states(self) -> int:
        """Number of hidden states; a stream may tap any of them."""
        return self.num_hidden_layers + 1

    @property
    def pooled_size(self) -> int:
        """Width of the pooled output."""
        return self.hidden_size

    @property
    def tokens_per_frame(self) -> int:
        return (self.image_size // self.patch_size) ** 2 + int(self.keep_class_token)

    def input_shape(self) -> tuple[int, ...]:
        """Shape of one item: (3, H, W), or (3, T, H, W) for clips."""
        frame = (self.image_size, self.image_size)
        return (3, self.num_frames, *frame) if self.num_frames else (3, *frame)

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """Number of tokens of an item of this shape, (3, H, W) or (3, T, H, W)."""
        return (shape[1] if len(shape) == 4 else 1) * self.tokens_per_frame

    def token_grids(self, shape: tuple[int, ...]) -> list[TokenGrid]:
        """Token grid of every frame of an item of this shape."""
        side = self.image_size // self.patch_size
        firsts = range(int(self.keep_class_token), self.num_tokens(shape), self.tokens_per_frame)
        return [TokenGrid(first, stride=side, height=side, width=side, top=0, left=0, side=side) for first in firsts]

    def for_frames(self, frames: int) -> dict[str, int]:
        """Settings for clips of so many frames: attention over time is built for one number, the rest takes any."""
        return {"num_frames": frames} if self.temporal_attention and frames != self.num_frames else {}

    def fitted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a tower for clips of another length, with its positions over time interpolated to this one.

        They are interpolated linearly, as in :func:`resized`. In a clip of one frame they are zero, because published
        code adds none there.
        """
        tables = {name: table for name, table in state.items() if name.endswith(f".{OVER_TIME}")}
        return {**state, **{name: _for_frames(table, self.num_frames) for name, table in tables.items()}}

    def build(self) -> "ClipTower":
        return ClipTower(self)


def _for_frames(table: Tensor, frames: int | None) -> Tensor:
    """A table of positions over time for another number of frames. Shape: (1, f, C) -> (1, T, C)"""
    if frames is None or frames == table.shape[1]:
        return table
    if frames == 1:
        return torch.zeros_like(table[:, :1])
    found = resized(table[0].float().cpu().numpy()[:, None, None], frames, 1)[:, 0, 0]
    return torch.from_numpy(found).to(table)[None]


class _QuickGelu(torch.autograd.Function):
    """x * sigmoid(1.702 x). Its gradient is that of SiLU at 1.702 x, which alone is kept: one pass over memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scaled = x * QUICK
        ctx.save_for_backward(scaled)
        return scaled.sigmoid().mul_(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.ops.aten.silu_backward(gradients[0], *ctx.saved_tensors)


class QuickGelu(nn.Module):
    """Activation ``quick_gelu`` of transformers, with less memory and fewer passes over it. Shape: any -> the same"""

    def forward(self, x: Tensor) -> Tensor:
        return _QuickGelu.apply(x)


def with_lean_activations(transformer: nn.Module) -> None:
    """Replace the ``quick_gelu`` of all layers of a CLIP transformer, in place: the same values, a leaner gradient."""
    for part in transformer.modules():
        if isinstance(getattr(part, "activation_fn", None), QuickGELUActivation):
            part.activation_fn = QuickGelu()


class ClipEmbeddings(nn.Module):
    """Embeddings of class token and patches plus learned positions. Shape: (B, 3, H, W) -> (B, F, C)"""

    def __init__(self, config: ClipTowerConfig) -> None:
        super().__init__()
        patches = (config.image_size // config.patch_size) ** 2
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            3, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size, bias=False
        )
        self.position_embedding = nn.Embedding(patches + 1, config.hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.class_embedding, std=POSITION_STD)
        nn.init.normal_(self.position_embedding.weight, std=POSITION_STD)

    def forward(self, frames: Tensor) -> Tensor:
        patches = self.patch_embedding(frames).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.expand(len(frames), 1, -1)
        return torch.cat([class_token, patches], dim=1) + self.position_embedding.weight


class TemporalClipLayer(CLIPEncoderLayer):
    """A CLIP layer in which every spatial position first attends over the frames of its clip.

    Shape: (B * T, F, C) -> (B * T, F, C), frames of one clip contiguous.
    """

    def __init__(self, config: CLIPVisionConfig, num_frames: int) -> None:
        super().__init__(config)
        self.num_frames = num_frames
        self.temporal_embedding = nn.Parameter(torch.zeros(1, num_frames, config.hidden_size))
        self.temporal_attn = CLIPAttention(config)
        self.temporal_layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.temporal_embedding, std=TIME_STD)

    def over_time(self, hidden_states: Tensor) -> Tensor:
        """The states after attention over time. Shape: (B * T, F, C) -> (B * T, F, C)"""
        clips = hidden_states.unflatten(0, (-1, self.num_frames))
        clips = clips + self.temporal_embedding.unsqueeze(2)
        over_time = self.temporal_layer_norm1(clips).transpose(1, 2)
        attended, _ = self.temporal_attn(over_time.flatten(0, 1), None)
        clips = clips + attended.view_as(over_time).transpose(1, 2)
        return clips.flatten(0, 1)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        return super().forward(self.over_time(hidden_states), attention_mask, **kwargs)


def class_token_after(layer: CLIPEncoderLayer, hidden_states: Tensor) -> Tensor:
    """The class token after a layer of which the other tokens are not needed: they are attended to, not computed.

    Shape: (B * T, F, C) -> (B * T, C)
    """
    if isinstance(layer, TemporalClipLayer):
        hidden_states = layer.over_time(hidden_states)
    attention, normed = layer.self_attn, layer.layer_norm1(hidden_states)
    parts = (attention.q_proj(normed[:, :1]), attention.k_proj(normed), attention.v_proj(normed))
    query, key, value = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in parts)
    attended = scaled_dot_product_attention(query, key, value, scale=attention.scale).transpose(1, 2).flatten(2)
    token = hidden_states[:, :1] + attention.out_proj(attended)
    return (token + layer.mlp(layer.layer_norm2(token)))[:, 0]


class _Encoder(nn.Module):
    """Contains the layers under the name that CLIP checkpoints use."""

    def __init__(self, layers: list[CLIPEncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class ClipTower(nn.Module):
    """CLIP vision transformer without its projection.

    Parameter names are those of CLIP checkpoints (``pre_layrnorm`` sic), so that names of published files differ by a
    prefix only. ``post_layernorm`` and the layers after ``feature_layer`` run for the pooled output only.

    Shape: (B, 3, H, W) -> (B, N, C), or (B, 3, T, H, W) -> (B, T * N, C), with N = ``config.tokens_per_frame``; with K
        ``taps`` (B, K, N, C) or (B, K, T * N, C).
    Raises:
        ValueError: attention over time was built for another number of frames than the clip has.
    """

    def __init__(self, config: ClipTowerConfig) -> None:
        super().__init__()
        self.config = config
        clip = CLIPVisionConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            hidden_act=config.hidden_act,
            layer_norm_eps=config.layer_norm_eps,
            attn_implementation="sdpa",
        )
        self.embeddings = ClipEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = _Encoder([self._layer(clip) for _ in range(config.num_hidden_layers)])
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        with_lean_activations(self)

    def _layer(self, clip: CLIPVisionConfig) -> CLIPEncoderLayer:
        if self.config.temporal_attention and self.config.num_frames:
            return TemporalClipLayer(clip, self.config.num_frames)
        return CLIPEncoderLayer(clip)

    def hidden_states(self, frames: Tensor) -> Iterator[Tensor]:
        """Yields the hidden states one by one, (B * T, 3, H, W) -> (B * T, F, C); the first is after ``pre_layrnorm``.

        No state is kept here: a state that the caller drops is free as soon as the next one is computed.
        """
        hidden = self.pre_layrnorm(self.embeddings(frames))
        yield hidden
        for layer in self.encoder.layers:
            hidden = layer(hidden, None)
            yield hidden

    def forward(self, pixels: Tensor, taps: Sequence[int] = ()) -> Tensor:
        config = self.config
        frames = self._frames(pixels)
        wanted = taps or (config.num_states + config.feature_layer,)
        states = enumerate(islice(self.hidden_states(frames), max(wanted) + 1))
        found = {number: self._features(state, len(pixels)) for number, state in states if number in wanted}
        return torch.stack([found[tap] for tap in taps], dim=1) if taps else found[wanted[0]]

    def pooled(self, pixels: Tensor) -> Tensor:
        """Class token after the last layer and ``post_layernorm``, averaged over frames; layers after
        ``feature_layer`` run too. Shape: (B, 3, H, W) or (B, 3, T, H, W) -> (B, C)
        """
        layers = self.encoder.layers
        for state in islice(self.hidden_states(self._frames(pixels)), len(layers)):
            before_last = state
        token = class_token_after(cast(CLIPEncoderLayer, layers[-1]), before_last)
        return self.post_layernorm(token).unflatten(0, (len(pixels), -1)).mean(1)

    def _frames(self, pixels: Tensor) -> Tensor:
        """Frames of all items. Shape: (B, 3, H, W) or (B, 3, T, H, W) -> (B * T, 3, H, W)"""
        config, is_clip = self.config, pixels.dim() == 5
        if config.temporal_attention and (not is_clip or pixels.shape[2] != config.num_frames):
            raise ValueError(f"this tower takes clips of {config.num_frames} frames, got shape {tuple(pixels.shape)}")
        return pixels.transpose(1, 2).flatten(0, 1) if is_clip else pixels

    def _features(self, state: Tensor, items: int) -> Tensor:
        """Features of the items, from a hidden state of their frames. Shape: (B * T, F, C) -> (B, T * N, C)"""
        features = state if self.config.keep_class_token else state[:, 1:]
        return features.unflatten(0, (items, -1)).flatten(1, 2)
