"""Towers: encoders of one medium.

The config of a tower is a frozen dataclass that states shapes and builds the tower.
"""

from typing import Any, Protocol

from torch import Tensor, nn

from vidtune.models.towers.beats import BeatsTowerConfig
from vidtune.models.towers.clip import ClipTowerConfig
from vidtune.models.towers.clip_class import ClipClassTowerConfig
from vidtune.models.towers.stab import StabTowerConfig
from vidtune.models.towers.whisper import WhisperTowerConfig


class TowerConfig(Protocol):
    """What the rest of the code asks of a tower before it is built.

    A tower whose tokens can be aligned with a teacher's also has ``token_grids(shape) -> list[TokenGrid]``, one for
    each frame of an item. A tower whose items may have any number of rows (their first dimension) also has
    ``tokens_per_row: Fraction``: ``num_tokens(shape)`` is ``shape[0] * tokens_per_row``, rounded down.
    """

    @property
    def hidden_size(self) -> int: ...

    def input_shape(self) -> tuple[int, ...]:
        """A valid shape of one item, without the batch dimension."""
        ...

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """Tokens that one item of ``shape`` becomes."""
        ...

    def build(self) -> nn.Module: ...


class Tower(Protocol):
    """Shape: (B, *item) -> (B, N, C).

    A tower whose ``takes_lists`` is true also takes a list of items of different shapes, and gives a list of (N, C).
    """

    config: TowerConfig

    def __call__(self, values: Tensor) -> Tensor: ...


TOWERS: dict[str, type] = {
    "beats": BeatsTowerConfig,
    "clip": ClipTowerConfig,
    "clip_class": ClipClassTowerConfig,
    "stab": StabTowerConfig,
    "whisper": WhisperTowerConfig,
}


def tower_config(spec: dict[str, Any]) -> TowerConfig:
    """The typed config of ``{"type": name, **sizes}``. Raises ValueError for an unknown type or size."""
    sizes = dict(spec)
    kind = sizes.pop("type", None)
    if kind not in TOWERS:
        raise ValueError(f"unknown tower type {kind!r}; known: {', '.join(sorted(TOWERS))}")
    try:
        return TOWERS[kind](**sizes)
    except TypeError as error:
        raise ValueError(f"tower {kind!r}: {error}") from None
