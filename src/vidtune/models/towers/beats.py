"""BEATs: a transformer over patches of a log-mel spectrogram, which turns every window of sound into one vector.

A patch is 16 frames by 16 mel bins. Patches are ordered by time, and within one time by frequency. Positions enter
twice: by a convolution before the layers, and by a bias on the attention that depends on the distance of two patches.
Every layer, head and query multiplies this bias by a factor of its own (the gate).

Legend: W windows, F frames and M mel bins of a window, E width of a patch, N patches of a window, C width, H heads,
d = C / H.
Source: arXiv:2212.09058, github.com/microsoft/unilm/tree/master/beats.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization

from vidtune.models.initial import XavierLinear

WINDOWS_AT_ONCE = 16
"""Number of windows that run through the layers together. It limits memory only; the results do not depend on it."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": functional.gelu, "relu": functional.relu}
GATE_PARTS = 4
OVERFLOW_GUARD = 32.0


@dataclass(frozen=True, kw_only=True)
class BeatsTowerConfig:
    """Sizes of the tower; the defaults are the published ones (iteration 3+).

    Args:
        patch_width: width E of a patch before it is projected to ``hidden_size``.
        pre_norm: True normalises before attention and feed-forward part, and once after the last layer; False
            normalises after each part.
        deep_norm: multiply the residual connection by (2 * layers)^(1/4); only without ``pre_norm``.
        position_kernel, position_groups: kernel size and groups of the convolution that adds positions.
        relative_positions: add a bias by distance to the attention, in ``num_buckets`` buckets, half of them for each
            direction. Buckets are exact up to a quarter of their number, and coarser up to ``max_distance``.
        gated_positions: multiply this bias by the gate.
        dropout, attention_dropout, activation_dropout, input_dropout: probabilities of dropping a value; in training.
        layer_dropout: probability of skipping a layer; in training.
        gradient_decay: factor of the gradient of each layer's input.
        window_frames, num_mel_bins: F and M of a window.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "gelu"
    patch_size: int = 16
    patch_width: int = 512
    patch_bias: bool = False
    pre_norm: bool = False
    deep_norm: bool = True
    position_kernel: int = 128
    position_groups: int = 16
    relative_positions: bool = True
    gated_positions: bool = True
    num_buckets: int = 320
    max_distance: int = 800
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    input_dropout: float = 0.0
    layer_dropout: float = 0.05
    gradient_decay: float = 0.6
    window_frames: int = 512
    num_mel_bins: int = 128

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} heads")
        if self.hidden_size % self.position_groups:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide into {self.position_groups} groups")
        if self.patch_size < 1 or self.window_frames % self.patch_size or self.num_mel_bins % self.patch_size:
            window = f"{self.window_frames} x {self.num_mel_bins}"
            raise ValueError(f"windows of {window} do not divide into patches of side {self.patch_size}")
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act {self.hidden_act!r} is not one of {', '.join(ACTIVATIONS)}")
        if self.deep_norm and self.pre_norm:
            raise ValueError("deep_norm and pre_norm exclude each other")
        if self.relative_positions and (self.num_buckets % 4 or not 0 < self.num_buckets // 4 < self.max_distance):
            raise ValueError(f"{self.num_buckets} buckets do not divide distances up to {self.max_distance}")

    @property
    def tokens_per_row(self) -> Fraction:
        return Fraction(1)

    def input_shape(self) -> tuple[int, ...]:
        """One window: (1, F, M)."""
        return (1, self.window_frames, self.num_mel_bins)

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """Number of tokens of W windows, (W, F, M)."""
        return int(shape[0] * self.tokens_per_row)

    def build(self) -> "BeatsTower":
        return BeatsTower(self)


def relative_buckets(distances: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Bucket of each distance (key position minus query position); each direction has half of the buckets.

    Shape: int64 (...) -> int64 (...)
    """
    half = num_buckets // 2
    fine = half // 2
    far = distances.abs()
    scale = torch.log(far.clamp(min=1).float() / fine) / math.log(max_distance / fine)
    coarse = fine + (scale * (half - fine)).long()
    return half * (distances > 0) + torch.where(far < fine, far, coarse.clamp(max=half - 1))


class _ScaledGradient(torch.autograd.Function):
    """The same values, with their gradient multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class PositionConv(nn.Module):
    """Positions by a wide convolution over the patches; the weight of each kernel position has a learned norm.

    Shape: (W, N, C) -> (W, N, C)
    """

    def __init__(self, config: BeatsTowerConfig) -> None:
        super().__init__()
        width, self.groups, self.kernel = config.hidden_size, config.position_groups, config.position_kernel
        self.gain = nn.Parameter(torch.empty(1, 1, self.kernel))
        self.direction = nn.Parameter(torch.empty(width, width // self.groups, self.kernel))
        self.bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.direction, std=math.sqrt(4.0 / (self.kernel * len(self.bias))))
        nn.init.zeros_(self.bias)
        initialization.copy_(self.gain, self._lengths())

    def _lengths(self) -> Tensor:
        """Norm of each kernel position, in float32, because half precision overflows. Shape: (1, 1, kernel)"""
        return self.direction.float().square().sum(dim=(0, 1), keepdim=True).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.direction * (self.gain / self._lengths())).to(x.dtype)
        y = functional.conv1d(x.transpose(1, 2), weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return functional.gelu(y[:, :, : x.shape[1]]).transpose(1, 2)


class RelativePositionBias(nn.Module):
    """Attention bias by distance, one value for each bucket and head; shared by all layers.

    Shape: N -> (H, N, N)
    """

    def __init__(self, config: BeatsTowerConfig) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = config.num_buckets, config.max_distance
        self.weight = nn.Parameter(torch.empty(config.num_buckets, config.num_attention_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, length: int) -> Tensor:
        positions = torch.arange(length, device=self.weight.device)
        buckets = relative_buckets(positions - positions.unsqueeze(1), self.num_buckets, self.max_distance)
        return functional.embedding(buckets, self.weight).permute(2, 0, 1)


class BeatsAttention(nn.Module):
    """Attention with a bias by distance, which every head and query multiplies by a gate.

    Shape: (W, N, C), bias (H, N, N) or None -> (W, N, C)
    """

    def __init__(self, config: BeatsTowerConfig, gain: float) -> None:
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        self.dropout = config.attention_dropout
        self.k_proj = XavierLinear(width, width)
        self.v_proj = XavierLinear(width, width, gain)
        self.q_proj = XavierLinear(width, width)
        self.out_proj = XavierLinear(width, width, gain)
        self.is_gated = config.relative_positions and config.gated_positions
        if self.is_gated:
            self.grep_linear = nn.Linear(width // self.num_heads, 2 * GATE_PARTS)
            self.grep_a = nn.Parameter(torch.empty(1, self.num_heads, 1, 1))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.is_gated:
            nn.init.ones_(self.grep_a)

    def gate(self, queries: Tensor) -> Tensor:
        """Factor of the bias of each query. Shape: (W, H, N, d) -> (W, H, N, 1)"""
        parts = self.grep_linear(queries).unflatten(-1, (2, GATE_PARTS)).sum(dim=-1).sigmoid()
        first, second = parts.split(1, dim=-1)
        return first * (second * self.grep_a - 1.0) + 2.0

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        queries, keys, values = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if bias is not None and self.is_gated:
            bias = self.gate(queries) * bias
        weights = functional.dropout(self.weights(queries, keys, bias), self.dropout, self.training)
        return self.out_proj((weights @ values).transpose(1, 2).flatten(2))

    def weights(self, queries: Tensor, keys: Tensor, bias: Tensor | None) -> Tensor:
        """Attention scores of queries and keys. Shape: (W, H, N, d) twice -> (W, H, N, N)

        Plain products overflow in float16. They are computed small, and scaled up after their maximum is subtracted.
        """
        scale = 1.0 / (OVERFLOW_GUARD * math.sqrt(queries.shape[-1]))
        products = (queries * scale) @ keys.transpose(-1, -2)
        logits = (products - products.amax(dim=-1, keepdim=True)) * OVERFLOW_GUARD
        return (logits if bias is None else logits + bias).softmax(dim=-1)


class BeatsLayer(nn.Module):
    """Attention and feed-forward part, each with a residual connection.

    Shape: (W, N, C), bias (H, N, N) or None -> (W, N, C)
    """

    def __init__(self, config: BeatsTowerConfig) -> None:
        super().__init__()
        self.config = config
        layers, width = config.num_hidden_layers, config.hidden_size
        self.residual_scale = (2.0 * layers) ** 0.25 if config.deep_norm else 1.0
        gain = (8.0 * layers) ** -0.25 if config.deep_norm else 1.0
        self.self_attn = BeatsAttention(config, gain)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = XavierLinear(width, config.intermediate_size, gain)
        self.fc2 = XavierLinear(config.intermediate_size, width, gain)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.config.pre_norm:
            x = x + self.attend(self.self_attn_layer_norm(x), bias)
            return x + self.feed_forward(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(self.residual_scale * x + self.attend(x, bias))
        return self.final_layer_norm(self.residual_scale * x + self.feed_forward(x))

    def attend(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return functional.dropout(self.self_attn(x, bias), self.config.dropout, self.training)

    def feed_forward(self, x: Tensor) -> Tensor:
        hidden = ACTIVATIONS[self.config.hidden_act](self.fc1(x))
        hidden = functional.dropout(hidden, self.config.activation_dropout, self.training)
        return functional.dropout(self.fc2(hidden), self.config.dropout, self.training)


class BeatsEncoder(nn.Module):
    """Adds positions and runs the layers. Shape: (W, N, C) -> (W, N, C)"""

    def __init__(self, config: BeatsTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.pos_conv = PositionConv(config)
        self.relative_attention_bias = RelativePositionBias(config) if config.relative_positions else None
        self.layers = nn.ModuleList([BeatsLayer(config) for _ in range(config.num_hidden_layers)])
        self.layer_norm = nn.LayerNorm(config.hidden_size)

    def add_positions(self, x: Tensor) -> Tensor:
        """Input of the first layer. Shape: (W, N, C) -> (W, N, C)"""
        x = x + self.pos_conv(x)
        x = x if self.config.pre_norm else self.layer_norm(x)
        return functional.dropout(x, self.config.dropout, self.training)

    def hidden_states(self, x: Tensor) -> Iterator[Tensor]:
        """Input of the first layer, then the output of each layer. Shape: (W, N, C) -> (W, N, C) each"""
        x = self.add_positions(x)
        yield x
        bias = None if self.relative_attention_bias is None else self.relative_attention_bias(x.shape[1])
        for layer in self.layers:
            x = self._run(layer, x, bias)
            yield x

    def _run(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        """Output of a layer. A dropped layer is still run, so that every weight takes part in every step."""
        if self.config.gradient_decay != 1.0 and x.requires_grad:
            x = _ScaledGradient.apply(x, self.config.gradient_decay)
        y = layer(x, bias)
        if not (self.training and self.config.layer_dropout):
            return y
        return torch.where(torch.rand((), device=x.device) > self.config.layer_dropout, y, x)

    def forward(self, x: Tensor) -> Tensor:
        for state in self.hidden_states(x):
            x = state
        return self.layer_norm(x) if self.config.pre_norm else x


class BeatsTower(nn.Module):
    """The encoder, and the mean over the patches of each window.

    Parameter names are those of published files, except those of the convolution and of the shared bias.

    Shape: list of (W, F, M) -> list of (W, C); a tensor (B, W, F, M) -> (B, W, C)
    Raises:
        ValueError: a window has another shape than (F, M).
    """

    takes_lists = True

    def __init__(self, config: BeatsTowerConfig) -> None:
        super().__init__()
        self.config = config
        size, width = config.patch_size, config.patch_width
        self.patch_embedding = nn.Conv2d(1, width, size, stride=size, bias=config.patch_bias)
        self.layer_norm = nn.LayerNorm(width)
        self.post_extract_proj = nn.Identity() if width == config.hidden_size else nn.Linear(width, config.hidden_size)
        self.encoder = BeatsEncoder(config)

    def patches(self, windows: Tensor) -> Tensor:
        """Shape: (W, F, M) -> (W, N, E)"""
        return self.patch_embedding(windows.unsqueeze(1)).flatten(2).transpose(1, 2)

    def project(self, patches: Tensor) -> Tensor:
        """Input of the encoder. Shape: (W, N, E) -> (W, N, C)"""
        projected = self.post_extract_proj(self.layer_norm(patches))
        return functional.dropout(projected, self.config.input_dropout, self.training)

    def encode(self, windows: Tensor) -> Tensor:
        """Shape: (W, F, M) -> (W, C)"""
        return self.encoder(self.project(self.patches(windows))).mean(dim=1)

    def forward(self, values: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        items = list(values)
        for item in items:
            if item.shape[1:] != self.config.input_shape()[1:]:
                shape = self.config.input_shape()[1:]
                raise ValueError(f"this tower takes windows of {shape}, got {tuple(item.shape)}")
        windows = torch.cat(items)
        parts = [self.encode(part) for part in windows.split(WINDOWS_AT_ONCE) if len(part)]
        encoded = torch.cat([windows.new_zeros(0, self.config.hidden_size), *parts])
        pooled = list(encoded.split([len(item) for item in items]))
        return torch.stack(pooled) if isinstance(values, Tensor) else pooled
