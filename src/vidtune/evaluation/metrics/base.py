"""Results of metrics: a value per item, and the sums from which the value of any set of items is computed.

A metric has additive statistics per item, and a function that computes its value from their sum. The mean, BLEU, METEOR
and F1 all have that form, so one jackknife over clusters of items (videos) fits all of them: sum all rows once, then
take away those of one cluster.

Legend: I items, S statistics per item.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

Id = TypeVar("Id", bound=Hashable)


@dataclass(frozen=True, eq=False)
class MetricValues:
    """One metric over I items.

    Args:
        per_item: (I,) value of each item.
        statistics: (I, S) rows; the value of a set of items is ``from_sums`` of the sum of their rows.
        from_sums: (..., S) -> (...) computes the value from sums of rows.
    """

    per_item: np.ndarray
    statistics: np.ndarray
    from_sums: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def mean(cls, values: Sequence[float] | np.ndarray) -> "MetricValues":
        """Returns a metric whose value is the mean over its items. Shape: (I,)"""
        per_item = np.asarray(values, dtype=np.float64)
        return cls(per_item, np.stack([per_item, np.ones_like(per_item)], axis=-1), mean_of_sums)

    @classmethod
    def of(cls, statistics: np.ndarray, from_sums: Callable[[np.ndarray], np.ndarray]) -> "MetricValues":
        """Returns a metric whose items get their value by the same function as the whole. Shape: (I, S)"""
        return cls(from_sums(statistics), statistics, from_sums)

    @property
    def value(self) -> float | None:
        """Value over all items; None without items."""
        if not len(self.per_item):
            return None
        return float(self.from_sums(self.statistics.sum(axis=0)))


def mean_of_sums(sums: np.ndarray) -> np.ndarray:
    """Sum of values over number of values. Shape: (..., 2) -> (...)"""
    return sums[..., 0] / sums[..., 1]


# (references of each item, prediction of each item) -> values; all texts are tokens with blanks between them
CaptionMetric = Callable[[Sequence[Sequence[str]], Sequence[str]], MetricValues]


@dataclass(frozen=True, eq=False)
class TaskValues(Generic[Id]):
    """The metrics of one task. Answers and truths are joined by id, never by position.

    Args:
        ids: ids of the scored items, in the order of the truths; the items of every metric.
        missing: ids of truths without an answer. They are in no value, unless scored strictly: then they are in ``ids``
            and count as empty answers.
        unknown: ids of answers without a truth; in no value.
        unparsed: those of ``ids`` with an answer in which nothing could be read; their value is 0.
        excluded: id of an answer that the published scorer leaves out -> reason; in no value.
        metrics: metric -> values.
    """

    ids: tuple[Id, ...]
    missing: tuple[Id, ...]
    unknown: tuple[Id, ...]
    unparsed: tuple[Id, ...]
    metrics: dict[str, MetricValues]
    excluded: Mapping[Id, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Joined(Generic[Id]):
    """Ids of answers and truths, joined; see TaskValues."""

    ids: tuple[Id, ...]
    missing: tuple[Id, ...]
    unknown: tuple[Id, ...]


def join(answers: Mapping[Id, object], truths: Mapping[Id, object], strict: bool) -> Joined[Id]:
    """Join answers and truths. Scored are the truths with an answer, in their order, or all of them when ``strict``."""
    return Joined(
        ids=tuple(one for one in truths if strict or one in answers),
        missing=tuple(one for one in truths if one not in answers),
        unknown=tuple(one for one in answers if one not in truths),
    )


def check_pairs(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> None:
    """Raises ValueError unless there are references for each prediction."""
    if len(references) != len(predictions):
        raise ValueError(f"{len(references)} items have references, {len(predictions)} have a prediction")
    for number, texts in enumerate(references):
        if not texts:
            raise ValueError(f"item {number} has no reference")
