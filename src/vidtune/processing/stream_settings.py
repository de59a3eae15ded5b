"""Settings of a stream: its preprocessing, its placeholder, and how many tokens its items become.

Legend: N tower features of an item, C their width, K tapped hidden states.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from vidtune.errors import UserError, errors_of
from vidtune.media.preprocessing.kinds import Preprocessing, reads_extras
from vidtune.registry import CONNECTORS, TOWERS, Registry

Grid = tuple[int, int, int]
"""Frames, rows and columns of the tokens of an item."""
ENDS = 512
"""Number of shapes at each end of many that are looked at, where there may be a million."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What an item becomes, known before it is read.

    Args:
        tokens: number of its tokens.
        grid: how its tokens stand; None: in no grid, or it is not known.
        cost: cost of encoding it, relative to the standard item of its tower (`TowerConfig.input_shape`).
        tower: settings of its tower that differ for it, as (name, value).
        untrained: which number of frames it has in the place of those that the model was trained with; empty: one of
            them.
    """

    tokens: int
    grid: Grid | None = None
    cost: float = 1.0
    tower: tuple[tuple[str, Any], ...] = ()
    untrained: str = ""


class Measure(BaseModel):
    """Function from the shape of an item to what it becomes, stored as the specs of the parts that encode it.

    Args:
        tower, connector: ``{"type": ..., **sizes}``, as in the config of the model.
        taps: hidden states of the tower that the connector gets, see :class:`VideoLMConfig`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tower: dict[str, Any]
    connector: dict[str, Any]
    taps: tuple[int, ...] = ()

    def __call__(self, shape: Sequence[int]) -> Measured:
        """What an item becomes for which preprocessing returns this shape."""
        tower, connector = self._parts
        item = tuple(shape)
        grid = tower.grid(item) if hasattr(tower, "grid") else None
        if grid is not None and (condenses(connector) or not is_tokenwise(connector)):
            grid = connector.grid(grid) if hasattr(connector, "grid") else None
        cost = states_of(tower, item) / states_of(tower, tower.input_shape())
        return Measured(tokens_of(connector, feature_shape(tower, connector, item, self.taps)), grid, cost)

    def of_features(self, shape: Sequence[int]) -> Measured:
        """What an item becomes whose features are stored with this shape. Its tower does not run.

        Raises:
            ValueError: the features have another number of dimensions than those of the tower.
        """
        tower, connector = self._parts
        standard = feature_shape(tower, connector, tower.input_shape(), self.taps)
        _check_dimensions(shape, len(standard))
        return Measured(tokens_of(connector, tuple(shape), ValueError), cost=0.0)

    def tower_changes(self, frames: int) -> dict[str, Any]:
        """Settings by which the tower takes clips of so many frames, where they differ from its own.

        Raises:
            ValueError: it takes no such clip; says which it takes.
        """
        tower, _ = self._parts
        found: dict[str, Any] = tower.for_frames(frames) if hasattr(tower, "for_frames") else {}
        return found

    def with_tower(self, changes: Mapping[str, Any]) -> "Measure":
        """The same function for a tower of other settings."""
        return self.model_copy(update={"tower": {**self.tower, **changes}})

    @property
    def counts_states(self) -> bool:
        """Whether the tower tells the size of its hidden states: an item of any shape may cost more than 1."""
        return hasattr(self._parts[0], "state_tokens")

    @property
    def _parts(self) -> tuple[Any, Any]:
        """Configs of tower and connector."""
        return _config(TOWERS, self.tower), _config(CONNECTORS, self.connector)


def _config(registry: Registry[Any], spec: Mapping[str, Any]) -> Any:
    return registry[spec["type"]](**{name: value for name, value in spec.items() if name != "type"})


def feature_shape(tower: Any, connector: Any, shape: tuple[int, ...], taps: Sequence[int]) -> tuple[int, ...]:
    """Shape of the features of an item of this shape, as they are stored and as the connector takes them.

    (N, C), or (K, N, C) with taps; what the connector makes of it if it condenses.
    """
    rows = (len(taps), states_of(tower, shape)) if taps else (tokens_of(tower, shape),)
    features = (*rows, tower.hidden_size)
    if not condenses(connector):
        return features
    with errors_of(f"condensed_shape of {type(connector).__name__} for shape {features}"):
        condensed: tuple[int, ...] = connector.condensed_shape(features)
    return condensed


def states_of(tower: Any, shape: tuple[int, ...]) -> int:
    """Number of features in a hidden state of the tower, of an item of this shape."""
    return tokens_of(tower, shape, count="state_tokens" if hasattr(tower, "state_tokens") else "num_tokens")


def tokens_of(part: Any, shape: tuple[int, ...], *passing: type[Exception], count: str = "num_tokens") -> int:
    """Number of tokens that the config of a tower or connector promises of this shape.

    Args:
        passing: errors that pass as they are.
        count: name of the method that tells it.

    Raises:
        UserError: the method raises, or returns no whole number.
    """
    what = f"{count} of {type(part).__name__} for shape {tuple(shape)}"
    with errors_of(what, *passing):
        tokens = getattr(part, count)(shape)
    if isinstance(tokens, bool) or not isinstance(tokens, int | np.integer):
        raise UserError(f"{what} returns {tokens!r}; expected a whole number")
    return int(tokens)


def condenses(connector: Any) -> bool:
    """Whether the connector of this config begins with a part without parameters; the store keeps what that gives."""
    return hasattr(connector, "condensed_shape")


def is_tokenwise(connector: Any) -> bool:
    """Whether the connector of this config maps every feature alone: one token for each."""
    return getattr(connector, "tokenwise", False)


class StreamSettings(BaseModel):
    """What the processor needs to know of a stream; saved in ``processor_config.json``.

    Args:
        preprocessing: file -> tensor.
        placeholder_id: token id that stands for one media token; outside the vocabulary.
        num_tokens: number of tokens of one item, computed from the model's config. If it depends on the item: a mapping
            from every shape that preprocessing can return ("3x8x252x448") to a number; or, if items may have any number
            of rows (their first dimension), the number of tokens per row as a fraction ("1500/256"), the product
            rounded down; or a :class:`Measure`, where neither says it.
        num_placeholders: number of tokens that one item adds to `max_length` before its placeholder is expanded.
        max_items: largest number of items in one training sample; None means no limit.
        absent_tower: if the model comes without the tower of the stream: name of the tower, and the name under which it
            is published. Such a stream reads stored features only.
        feature_rows: number of features that a file of stored features must have; None if it depends on the item.
        feature_size: width that stored features must have; None if nothing is known of the tower.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preprocessing: Preprocessing
    placeholder_id: int
    num_tokens: PositiveInt | dict[str, PositiveInt] | Annotated[str, Field(pattern=r"^\d+(/\d+)?$")] | Measure
    num_placeholders: PositiveInt = 1
    max_items: PositiveInt | None = None
    absent_tower: tuple[str, str] | None = None
    feature_rows: PositiveInt | None = None
    feature_size: PositiveInt | None = None

    @property
    def all_alike(self) -> bool:
        """Whether all items have one shape, so that no metadata are needed to count their tokens."""
        return isinstance(self.num_tokens, int) or (
            isinstance(self.num_tokens, Measure) and len(self.preprocessing.output_shapes()) == 1
        )

    @property
    def takes_features(self) -> bool:
        """Whether stored features can stand in for its files; not if preprocessing reads numbers of each item."""
        return not reads_extras(self.preprocessing)

    @property
    def is_measured(self) -> bool:
        """Whether the cost of an item is more than what a number, a table or a fraction can say."""
        return isinstance(self.num_tokens, Measure) and (not self.all_alike or self.num_tokens.counts_states)

    def misfit(self, other: Preprocessing) -> str | None:
        """Why the model does not take the items of other preprocessing; None: it takes them.

        It takes shapes that the stream has already. Of items whose tokens are counted by a function, it also takes
        those of as many tokens in more or fewer parts, if the connector takes any number of parts, and those of the
        same size of frames that the function can count.
        """
        own, new = self.preprocessing.output_shapes(), other.output_shapes()
        if len(new) <= len(own) and all(shape in own for shape in new):
            return None
        differ = f"the model takes {_range_of(own)} but this gives {_range_of(new)}"
        if not isinstance(self.num_tokens, Measure):
            return differ
        if {shape[-2:] for shape in _few(new)} != {shape[-2:] for shape in _few(own)}:
            return differ
        if self.all_alike:
            alike = hasattr(other, "load_item") and own[0][0] == new[0][0]
            return None if alike and self.measure(own[0]).tokens == self.measure(new[0]).tokens else differ
        for shape in _few(new):
            try:
                if self.measure(shape).tokens < 1:
                    return differ
            except (UserError, ValueError) as error:
                return f"{differ}: {error.__cause__ or error}"
        return None

    def measure(self, shape: Sequence[int]) -> Measured:
        """What an item becomes for which preprocessing returns this shape."""
        if isinstance(self.num_tokens, Measure):
            return self.num_tokens(shape)
        if isinstance(self.num_tokens, int):
            return Measured(self.num_tokens)
        if isinstance(self.num_tokens, dict):
            return Measured(self.num_tokens["x".join(map(str, shape))])
        return Measured(int(shape[0] * Fraction(self.num_tokens)))

    def measure_features(self, shape: Sequence[int]) -> Measured:
        """What an item becomes whose tower features are stored with this shape.

        Raises:
            ValueError: the features are not those of this tower; says how they differ.
        """
        rows, width = shape[-2:]
        if self.feature_size is not None and width != self.feature_size:
            raise ValueError(f"its features have width {width} where the tower gives {self.feature_size}")
        if self.feature_rows is not None and rows != self.feature_rows:
            raise ValueError(f"it holds {rows} features where the tower gives {self.feature_rows}")
        if isinstance(self.num_tokens, Measure):
            return self.num_tokens.of_features(shape)
        _check_dimensions(shape, 2)
        return Measured(self.num_tokens if isinstance(self.num_tokens, int) else rows)


def _few(shapes: Sequence[tuple[int, ...]]) -> Sequence[tuple[int, ...]]:
    """The first and the last of many shapes. Between them, what a tower can count follows from remainders."""
    return shapes if len(shapes) <= 2 * ENDS else [*shapes[:ENDS], *shapes[-ENDS:]]


def _range_of(shapes: Sequence[tuple[int, ...]]) -> str:
    """The shapes that preprocessing may give, shortest first."""
    first, *others = sorted(_few(shapes))
    return f"{first} to {others[-1]}" if others else f"{first}"


def _check_dimensions(shape: Sequence[int], expected: int) -> None:
    if len(shape) != expected:
        raise ValueError(f"its features have {len(shape)} dimensions where the tower gives {expected}")


def absent_message(published: Mapping[str, str]) -> str:
    """Message for files that must be encoded by towers that the model does not have.

    Args:
        published: tower -> name under which its weights are published.
    """
    names = ", ".join(f"{name} (published as {place})" for name, place in published.items())
    options = " ".join(f"--tower {name}=PLACE" for name in published)
    return (
        f"the model comes without its towers: {names}; name their weights with {options} (towers: in a recipe), or "
        "give extracted features"
    )


def needs_files_message(stream: str) -> str:
    """Message for stored features of a stream that does not take them (`StreamSettings.takes_features`)."""
    return (
        f"stored features cannot stand in for the files of the stream {stream!r}: its preprocessing reads numbers of "
        "each item, such as boxes, which features lack; leave its features out"
    )
