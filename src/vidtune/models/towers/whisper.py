"""The encoder of Whisper as a speech tower: one vector per 5.12 s, the mean of the encoder's positions in it.

A row of an item is the log-mel spectrogram of one piece of sound (30 s as published). The encoder processes every row
alone. Then the positions of all rows are joined, and windows of ``window_positions`` may cross the borders of rows. An
incomplete window at the end is dropped; the silence that fills the last row is kept.

Legend: R rows, M mel bins, P positions and F = 2 P mel frames of a row, C width, N = floor(R P / window_positions)
tokens.
Source: Whisper (arXiv:2212.04356, github.com/openai/whisper); pooling as in arXiv:2411.19772.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn
from transformers import WhisperConfig, initialization
from transformers.models.whisper.modeling_whisper import WhisperEncoder, sinusoids

FRAMES_PER_POSITION = 2
ROWS_AT_ONCE = 8
"""Number of rows that run through the layers together. It limits memory only; the results do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class WhisperTowerConfig:
    """Sizes of the tower; the defaults are those of large-v2.

    Args:
        max_source_positions: number of positions P of a row, 50 per second; 1500 are 30 s.
        window_positions: number of positions that become one token.
    """

    hidden_size: int = 1280
    intermediate_size: int = 5120
    num_hidden_layers: int = 32
    num_attention_heads: int = 20
    num_mel_bins: int = 80
    max_source_positions: int = 1500
    window_positions: int = 256
    hidden_act: str = "gelu"

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} heads")
        if self.hidden_size % 2 or self.hidden_size < 4:
            raise ValueError(f"hidden_size {self.hidden_size} holds no pairs of sine and cosine")
        if not 0 < self.window_positions <= self.max_source_positions:
            raise ValueError(f"window_positions {self.window_positions} is not in 1..{self.max_source_positions}")

    @property
    def tokens_per_row(self) -> Fraction:
        """Number of tokens per row; not a whole number in general."""
        return Fraction(self.max_source_positions, self.window_positions)

    def input_shape(self) -> tuple[int, ...]:
        """One row: (1, M, F)."""
        return (1, self.num_mel_bins, FRAMES_PER_POSITION * self.max_source_positions)

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """Number of tokens of R rows, (R, M, F)."""
        return int(shape[0] * self.tokens_per_row)

    def build(self) -> "WhisperTower":
        return WhisperTower(self)


class WhisperTower(nn.Module):
    """Encoder of transformers; its output is averaged over windows.

    Shape: list of (R, M, F) -> list of (N, C); a tensor (B, R, M, F) -> (B, N, C)
    Raises:
        ValueError: a row has another shape than (M, F).
    """

    takes_lists = True

    def __init__(self, config: WhisperTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = WhisperEncoder(
            WhisperConfig(
                d_model=config.hidden_size,
                encoder_ffn_dim=config.intermediate_size,
                encoder_layers=config.num_hidden_layers,
                encoder_attention_heads=config.num_attention_heads,
                num_mel_bins=config.num_mel_bins,
                max_source_positions=config.max_source_positions,
                activation_function=config.hidden_act,
                attn_implementation="sdpa",
            )
        )
        self.train()

    def train(self, mode: bool = True) -> "WhisperTower":
        """Set the training mode of all parts except the encoder module itself; its layers are set.

        transformers before 5.23 draws a random number for each layer while the flag of the encoder is set, although no
        layer is ever dropped.
        """
        super().train(mode)
        self.encoder.training = False
        return self

    def reset_parameters(self) -> None:
        """Set the positions to sines and cosines; the layers have their own ``reset_parameters``."""
        positions = self.encoder.embed_positions.weight
        initialization.copy_(positions, sinusoids(*positions.shape))

    def encode(self, rows: Tensor) -> Tensor:
        """Shape: (R, M, F) -> (R, P, C)"""
        return self.encoder(rows).last_hidden_state

    def pool(self, encoded: Tensor) -> Tensor:
        """Mean of every window over the joined positions of all rows. Shape: (R, P, C) -> (N, C)"""
        window = self.config.window_positions
        positions = encoded.flatten(0, 1)
        whole = len(positions) // window * window
        return positions[:whole].unflatten(0, (-1, window)).mean(dim=1)

    def forward(self, values: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        items = list(values)
        for item in items:
            if item.shape[1:] != self.config.input_shape()[1:]:
                raise ValueError(f"this tower takes rows of {self.config.input_shape()[1:]}, got {tuple(item.shape)}")
        rows = torch.cat(items)
        parts = [self.encode(part) for part in rows.split(ROWS_AT_ONCE) if len(part)]
        empty = rows.new_zeros(0, self.config.max_source_positions, self.config.hidden_size)
        encoded = torch.cat([empty, *parts])
        pooled = [self.pool(item) for item in encoded.split([len(item) for item in items])]
        return torch.stack(pooled) if isinstance(values, Tensor) else pooled
