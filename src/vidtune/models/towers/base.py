"""Tower protocol: what a tower and its config offer to the rest of the code.

The config of a tower is a frozen dataclass that states shapes and builds the tower.

Legend: B items, N tokens of an item, C tower width, K tapped hidden states.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Any, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import Tensor, nn

from vidtune.registry import TOWERS
from vidtune.spelling import suggestion

Part = TypeVar("Part")


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
    - ``fitted(state)``: weights of such a tower with other sizes -> weights of this one, where tables of positions have
      to be resized. Where it is missing, weights fit as they are or not at all.
    - ``for_frames(frames)``: the settings by which the tower takes clips of so many frames, where they differ from its
      own. Raises ValueError for a number that it does not take; says which it takes. Where it is missing, the tower
      takes any number as it is.
    - ``pooled_size``: width C of the pooled output of a tower that has one, ``tower.pooled(values) -> (B, C)``. With
      ``pools_projected`` True it is compared with texts as it is; otherwise a projection stands between.
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
    One that takes lists and has ``parts_of(item, group)`` cuts a long item into items that it can encode alone, each of
    whole groups of ``group`` features and about ``tokens_at_once`` features, see :mod:`vidtune.models.condensing`.

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
    return with_sizes(f"tower {kind!r}", TOWERS[kind], sizes)


def with_sizes(what: str, kind: Callable[..., Part], sizes: Mapping[str, Any]) -> Part:
    """The config of a part with these sizes. Raises ValueError for those that it cannot have; begins with ``what``."""
    require_sizes(what, kind, sizes)
    try:
        return kind(**sizes)
    except TypeError as error:
        raise ValueError(f"{what}: {error}") from None
    except ZeroDivisionError:
        zero = [name for name, value in sizes.items() if type(value) in (int, float) and value == 0]
        raise ValueError(f"{what}: {', '.join(zero)} cannot be 0") from None


def require_sizes(what: str, kind: Any, sizes: Mapping[str, Any]) -> None:
    """Raise ValueError for a size that the config of a tower or connector does not have, or of another type.

    Of types, whole numbers, numbers, yes or no, and texts are looked at, and None where it is allowed.
    """
    types = _types(kind)
    for name, value in sizes.items() if types else ():
        if name not in types:
            raise ValueError(f"{what}: it has no {name!r}; {suggestion(name, types)}")
        union = get_origin(types[name]) in (Union, UnionType)
        allowed = get_args(types[name]) if union else (types[name],)
        if set(allowed) <= _NAMES.keys() and not any(_is(value, one) for one in allowed):
            expected = " or ".join(_NAMES[one] for one in allowed)
            raise ValueError(f"{what}: {name} is {written(value)}; expected {expected}")


def written(value: Any) -> str:
    """A value as a recipe writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f'"{value}"' if isinstance(value, str) else str(value)


def _is(value: Any, type_: type) -> bool:
    """Whether a value is of a type; true is no number, and a whole number is a number."""
    if isinstance(value, bool):
        return type_ is bool
    return isinstance(value, _WIDER.get(type_, type_))


_WIDER: dict[type, type] = {int: Integral, float: Real}
_NAMES: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "null",
}


@cache
def _types(kind: Any) -> dict[str, Any]:
    """Types of the fields of a config; empty where it is no dataclass, or they cannot be known."""
    if not is_dataclass(kind):
        return {}
    try:
        hints = get_type_hints(kind)
    except (NameError, TypeError):
        return {}
    return {field.name: hints[field.name] for field in fields(kind) if field.init}
