"""MLP connector: a stack of linear layers with GELU between them.

Legend: B items, N tokens, C tower width, D language-model width.
Source: LLaVA-1.5 (arXiv:2310.03744), "MLP vision-language connector".
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn


@dataclass(frozen=True, kw_only=True)
class MlpConnectorConfig:
    """Sizes of an MLP connector.

    Args:
        input_size: tower width C.
        output_size: language-model width D.
        depth: number of linear layers; 0 returns the features unchanged, and then both widths must be equal.
    """

    input_size: int
    output_size: int
    depth: int = 2

    tokenwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.depth == 0 and self.input_size != self.output_size:
            raise ValueError(f"an identity connector cannot map width {self.input_size} to {self.output_size}")

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """Number of embeddings: one for each feature."""
        return shape[0]

    def build(self) -> "MlpConnector":
        return MlpConnector(self)


class MlpConnector(nn.Sequential):
    """Shape: (B, N, C) -> (B, N, D)."""

    def __init__(self, config: MlpConnectorConfig) -> None:
        layers: list[nn.Module] = []
        width = config.input_size
        for index in range(config.depth):
            if index:
                layers.append(nn.GELU())
            layers.append(nn.Linear(width, config.output_size))
            width = config.output_size
        super().__init__(*layers)
        self.config = config
