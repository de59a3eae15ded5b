"""Tower protocol: what a tower and its config offer to the rest of the code.

The config of a tower is a frozen dataclass that states shapes and builds the tower.

Legend: B items, N tokens of an item, C tower width, K tapped hidden states.
"""

from typing import Any, Protocol

from torch import Tensor, nn

from vidtune.registry import TOWERS


class TowerConfig(Protocol):
    """Config of a tower: its shapes are known before the tower is built.

    These members are optional:

    - ``token_grids(shape) -> list[TokenGrid]`` returns one grid for each frame of an item; only towers that have it can
      be aligned with a teacher.
    - ``tokens_per_row: Fraction`` exists for towers whose items may have any number of rows (their first dimension):
      ``num_tokens(shape)`` is then ``shape[0] * tokens_per_row``, rounded down.
    - ``num_states``: number of hidden states that a stream may tap, 0 being the one before the first layer. The tower
      then takes the numbers of wanted states: ``tower(values, taps=(14, 20)) -> (B, K, N, C)``.
    - ``state_tokens(shape)``: number of tokens of a tapped hidden state, where it differs from ``num_tokens``. The cost
      of encoding an item is in proportion to it.
    - ``grid(shape) -> (frames, rows, columns)`` tells how the tokens of an item stand; None: in no grid.
    """

    @property
    def hidden_size(self) -> int:
        """Tower width C."""
        ...

    def input_shape(self) -> tuple[int, ...]:
        """A valid shape of one item, without the batch dimension."""
        ...

    def num_tokens(self, shape: tuple[int, ...]) -> int:
        """Number of tokens N of one item of this shape."""
        ...

    def build(self) -> nn.Module:
        """A new tower with random weights."""
        ...


class Tower(Protocol):
    """Encoder of one medium.

    A tower with ``takes_lists = True`` also takes a list of items of different shapes, and returns a list of (N, C).

    Shape: (B, *item) -> (B, N, C)
    """

    config: TowerConfig

    def __call__(self, values: Tensor) -> Tensor: ...


def tower_config(spec: dict[str, Any]) -> TowerConfig:
    """The config that ``{"type": name, **sizes}`` describes.

    Raises:
        ValueError: the type or a size is unknown, or the sizes contradict each other.
    """
    sizes = dict(spec)
    kind = sizes.pop("type", None)
    if kind not in TOWERS:
        raise ValueError(f"unknown tower type {kind!r}; known: {', '.join(sorted(TOWERS))}")
    try:
        return TOWERS[kind](**sizes)
    except TypeError as error:
        raise ValueError(f"tower {kind!r}: {error}") from None
