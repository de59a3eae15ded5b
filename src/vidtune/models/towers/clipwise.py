"""Vision transformers over short clips: the frames of a clip attend to each other, clips do not see each other.

A video is cut into clips of ``clip_frames`` frames. A picture is a clip of one frame, for which the tower has other
positions. Clips of all items run through the net together, in parts of bounded size.

Legend: B items, n clips of all items, T frames of an item, t frames of a clip, S side in pixels, N patches of a frame,
C width, H heads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vidtune.models.initial import NormalLinear

TOKENS_AT_ONCE = 16_384
"""Most tokens of clips that run through the layers together. It limits memory only; results do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class ClipwiseTowerConfig:
    """Sizes that such towers have in common.

    Args:
        num_hidden_layers: number of blocks that run. Published encoders have one more, whose output nobody reads.
        clip_frames: number of frames t of a clip.
    """

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 23
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 16
    clip_frames: int = 4

    def __post_init__(self) -> None:
        if self.patch_size < 1 or self.image_size < 1 or self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} heads")
        if self.num_hidden_layers < 1:
            raise ValueError(f"num_hidden_layers {self.num_hidden_layers} is less than 1")
        if self.clip_frames < 2:
            raise ValueError(f"clip_frames {self.clip_frames} is less than 2; a clip of one frame is a picture")

    @property
    def side(self) -> int:
        """Number of patches along each side of a frame."""
        return self.image_size // self.patch_size

    @property
    def tokens_per_frame(self) -> int:
        return self.side**2

    def input_shape(self) -> tuple[int, ...]:
        """One clip: (3, t, S, S)."""
        return (3, self.clip_frames, self.image_size, self.image_size)

    def frames_of(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Number of clips of an item, and number of frames of each.

        Args:
            shape: a picture (3, S, S), a video (3, T, S, S), or P pictures or clips (P, 3, T, S, S).

        Raises:
            ValueError: a number of frames that does not divide into clips.
        """
        frames = 1 if len(shape) == 3 else shape[-3]
        items = shape[0] if len(shape) == 5 else 1
        if frames == 1:
            return items, 1
        return items * self._clips(frames), self.clip_frames

    def _clips(self, frames: int) -> int:
        """Number of clips of a video. Raises ValueError where they are not whole."""
        clips, rest = divmod(frames, self.clip_frames)
        if rest or not clips:
            fitting = f"{clips * self.clip_frames} or " if clips else ""
            raise ValueError(
                f"{frames} frames do not divide into clips of {self.clip_frames}; give {fitting}"
                f"{(clips + 1) * self.clip_frames} frames"
            )
        return clips

    def for_frames(self, frames: int) -> dict[str, int]:
        """Settings for videos of so many frames: none differ.

        Raises:
            ValueError: a number of frames that does not divide into clips; one frame is a picture.
        """
        self._clips(frames)
        return {}

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """Number of features of an item, N for each frame, clip by clip; shapes as in :meth:`frames_of`."""
        clips, frames = self.frames_of(shape)
        return clips * frames * self.tokens_per_frame

    def grid(self, shape: tuple[int, ...]) -> tuple[int, int, int] | None:
        """How the features of a picture or video stand: (frames, rows, columns); None for several of them."""
        return None if len(shape) == 5 else (self.num_tokens(shape) // self.tokens_per_frame, self.side, self.side)


class ClipwiseTower(nn.Module):
    """Cuts items into clips and runs them in parts; a subclass encodes the clips.

    Each part is computed again in the backward pass where the tower is trained, so that its memory stays bounded too.

    Shape: list of (3, S, S), (3, T, S, S) or (P, 3, T, S, S) -> list of (clips * t * N, C), clip by clip, and inside a
        clip frame by frame, row by row; a tensor (B, *item) -> (B, clips * t * N, C)
    Raises:
        ValueError: frames of another size, or a number of frames that does not divide into clips.
    """

    takes_lists = True
    config: ClipwiseTowerConfig

    def encode(self, clips: Tensor) -> Tensor:
        """Features of clips of one length. Shape: (n, 3, t, S, S) -> (n, t * N, C)"""
        raise NotImplementedError

    def clips_of(self, item: Tensor) -> Tensor:
        """The clips of an item, without a copy. Shape: item -> (clips, 3, t, S, S)"""
        config = self.config
        side, channels = config.image_size, item.shape[1 if item.dim() == 5 else 0]
        if (channels, *item.shape[-2:]) != (3, side, side):
            raise ValueError(f"this tower takes frames (3, {side}, {side}), got an item of {tuple(item.shape)}")
        number, frames = config.frames_of(tuple(item.shape))
        clips = item.unsqueeze(1) if item.dim() == 3 else item
        clips = clips.unflatten(-3, (-1, frames)).movedim(-4, -5)
        return clips.reshape(number, 3, frames, *item.shape[-2:]) if item.dim() == 5 else clips

    @property
    def tokens_at_once(self) -> int:
        """Most tokens that run together."""
        return TOKENS_AT_ONCE

    def parts_of(self, item: Tensor, group: int) -> list[Tensor]:
        """An item cut into parts that can be encoded alone, each of whole groups of ``group`` features.

        Shape: item -> list of (clips, 3, t, S, S); the features of the parts, one after the other, are those of the
            item
        """
        clips = self.clips_of(item)
        tokens = clips.shape[2] * self.config.tokens_per_frame
        if group % tokens and tokens % group:
            return [item]
        step = max(1, group // tokens)
        return list(clips.split(max(step, TOKENS_AT_ONCE // tokens // step * step)))

    def forward(self, values: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        cut = [self.clips_of(item) for item in values]
        features: list[Tensor] = [torch.empty(0)] * len(cut)
        for frames in {clips.shape[2] for clips in cut}:
            alike = [number for number, clips in enumerate(cut) if clips.shape[2] == frames]
            encoded = self.encode_all([cut[number] for number in alike])
            for number, block in zip(alike, encoded.split([len(cut[number]) for number in alike]), strict=True):
                features[number] = block.flatten(0, 1)
        return torch.stack(features) if isinstance(values, Tensor) else features

    def encode_all(self, groups: Sequence[Tensor]) -> Tensor:
        """Features of many clips of one length, in parts. Shape: list of (n, 3, t, S, S) -> (all n, t * N, C)"""
        clips = groups[0] if len(groups) == 1 else torch.cat(list(groups))
        at_once = max(1, TOKENS_AT_ONCE // (clips.shape[2] * self.config.tokens_per_frame))
        trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in self.parameters())
        parts = clips.split(at_once)
        if not trained or len(parts) == 1:
            return torch.cat([self.encode(part) for part in parts])
        return torch.cat([checkpoint(self.encode, part, use_reentrant=False) for part in parts])


class PatchEmbedding(nn.Module):
    """One vector for each patch of each frame. Shape: (n, 3, t, S, S) -> (n, t * N, C)"""

    def __init__(self, config: ClipwiseTowerConfig) -> None:
        super().__init__()
        size = (1, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.hidden_size, kernel_size=size, stride=size)

    def forward(self, clips: Tensor) -> Tensor:
        return self.proj(clips).flatten(2).transpose(1, 2)


class FeedForward(nn.Module):
    """Two layers with the exact GELU between them. Shape: (n, L, C) -> (n, L, C)"""

    def __init__(self, config: ClipwiseTowerConfig) -> None:
        super().__init__()
        self.fc1 = NormalLinear(config.hidden_size, config.intermediate_size)
        self.fc2 = NormalLinear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Attention of all tokens of a clip to each other. Shape: (n, L, C) three times -> (n, L, C)"""
    split = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (queries, keys, values))
    return functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def resized(table: np.ndarray, frames: int, side: int) -> np.ndarray:
    """A table of positions for other frames of another size: bicubic over space, linear over time.

    Equal to ``torch.nn.functional.interpolate`` without aligned corners. It is numpy, so that no mode of torch (meta
    device, fake tensors, inference) gets into a table that is kept.

    Shape: (f, s, s, C) -> (frames, side, side, C)
    """
    over_space = _mixing(table.shape[1], side, _CUBIC)
    over_time = _mixing(len(table), frames, _LINEAR)
    return np.einsum("tf,yh,xw,fhwc->tyxc", over_time, over_space, over_space, table, optimize=True)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Weight of a cell at a distance, by cubic convolution with the constant -0.75."""
    near = (1.25 * distance - 2.25) * distance**2 + 1
    far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


_CUBIC = (2, _cubic)
_LINEAR = (1, lambda distance: np.maximum(1 - distance, 0.0))


def _mixing(old: int, new: int, kernel: tuple[int, Callable[[np.ndarray], np.ndarray]]) -> np.ndarray:
    """Part of each old cell in each new one; cells outside count as the outermost. Shape: float64 (new, old)"""
    reach, weight = kernel
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    cells = np.floor(centres).astype(int)[:, None] + np.arange(1 - reach, 1 + reach)
    mixing = np.zeros((new, old))
    np.add.at(mixing, (np.arange(new)[:, None], cells.clip(0, old - 1)), weight(abs(centres[:, None] - cells)))
    return mixing
