"""Intervals of scores whose questions come in clusters: answers to questions about one video are not independent.

The interval is a percentile bootstrap that draws whole videos with replacement (Davison & Hinkley, Bootstrap Methods
and their Application, 1997; clustering in model evaluation: Miller, Adding Error Bars to Evals, arXiv:2411.00640). Two
runs are compared by the difference per question, drawn together, which removes the difficulty they share (ibid.).

A bootstrap of answers that are all right (or all wrong) has no width. The exact binomial bound with one trial per video
is used instead; it is the widest interval that clustering allows (Clopper & Pearson, Biometrika 1934).

A value that is not a mean (BLEU, METEOR of a corpus) is a function of sums over the questions. Whole videos are drawn
in the same way, and the function is applied to the sums over the drawn videos.

Legend: Q questions, G clusters (videos), R resamples, S sums that a value is computed from.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

LEVEL = 0.95
RESAMPLES = 4000
SEED = 0
METHOD = f"percentile bootstrap over videos, {RESAMPLES} resamples, seed {SEED}"
_CELLS_AT_ONCE = 4_000_000


class Estimate(BaseModel):
    """A value with its 95 % interval.

    Args:
        low, high: bounds of the interval; None when there are fewer than two clusters, which give no interval.
        clusters: number of videos that the value is computed from.
    """

    model_config = ConfigDict(frozen=True)

    value: float
    low: float | None
    high: float | None
    clusters: int

    def scaled(self, factor: float) -> "Estimate":
        """Returns the estimate times a factor."""
        if factor == 1:
            return self
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        changes = {name: factor * number for name, number in numbers.items() if number is not None}
        return self.model_copy(update=changes)


def ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    clusters: Sequence[Hashable],
    bounds: tuple[float, float] | None = None,
) -> Estimate | None:
    """Sum of numerators over sum of denominators, for example right answers over answers.

    Args:
        numerators, denominators: (Q,) one entry per question.
        clusters: (Q,) video of each question.
        bounds: smallest and largest possible value; a value equal to one of them then gets an exact interval.

    Returns:
        None when the denominators sum to zero.
    """
    total = float(np.sum(denominators))
    if total == 0:
        return None
    value = float(np.sum(numerators)) / total
    tops, bottoms = _per_cluster(numerators, clusters), _per_cluster(denominators, clusters)
    used = bottoms != 0
    tops, bottoms = tops[used], bottoms[used]
    count = len(tops)
    if count < 2:
        return Estimate(value=value, low=None, high=None, clusters=count)
    if bounds is not None and value in bounds:
        low, high = _exact_bounds(value, bounds, count)
    else:
        sums = _resampled_sums(np.stack([tops, bottoms], axis=-1))
        resampled = sums[:, 0] / sums[:, 1]
        low, high = (float(x) for x in np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Estimate(value=value, low=low, high=high, clusters=count)


def mean_difference(first: Sequence[float], second: Sequence[float], clusters: Sequence[Hashable]) -> Estimate | None:
    """Mean of ``first - second`` over paired questions, resampled by video; None without questions.

    Shape: (Q,), (Q,), (Q,)
    """
    return ratio(np.subtract(first, second).tolist(), [1.0] * len(first), clusters)


def difference_of_means(
    first: np.ndarray,
    second: np.ndarray,
    from_sums: Callable[[np.ndarray], np.ndarray],
    clusters: Sequence[Hashable],
) -> Estimate | None:
    """`mean_difference` of rows (value, 1), with the arguments of `difference_of_sums`.

    Shape: (Q, 2), (Q, 2), unused, (Q,)
    """
    return mean_difference(first[:, 0].tolist(), second[:, 0].tolist(), clusters) if len(first) else None


def of_sums(
    statistics: np.ndarray, from_sums: Callable[[np.ndarray], np.ndarray], clusters: Sequence[Hashable]
) -> Estimate | None:
    """A value computed from sums over the questions.

    Args:
        statistics: (Q, S) one row per question.
        from_sums: (..., S) -> (...) computes the value from sums of rows.
        clusters: (Q,) video of each question.

    Returns:
        None without questions.
    """
    if not len(statistics):
        return None
    value = float(from_sums(statistics.sum(axis=0)))
    sums = _sums_per_cluster(statistics, clusters)
    return _interval(value, len(sums), lambda: from_sums(_resampled_sums(sums)))


def difference_of_sums(
    first: np.ndarray,
    second: np.ndarray,
    from_sums: Callable[[np.ndarray], np.ndarray],
    clusters: Sequence[Hashable],
) -> Estimate | None:
    """The value of ``first`` minus that of ``second`` over paired questions, whose videos are drawn together.

    Shape: (Q, S), (Q, S), (..., S) -> (...), (Q,)
    """
    if not len(first):
        return None
    width = first.shape[1]
    sums = _sums_per_cluster(np.concatenate([first, second], axis=1), clusters)

    def difference(both: np.ndarray) -> np.ndarray:
        return from_sums(both[..., :width]) - from_sums(both[..., width:])

    return _interval(float(difference(sums.sum(axis=0))), len(sums), lambda: difference(_resampled_sums(sums)))


def _interval(value: float, clusters: int, resampled: Callable[[], np.ndarray]) -> Estimate:
    if clusters < 2:
        return Estimate(value=value, low=None, high=None, clusters=clusters)
    low, high = (float(x) for x in np.quantile(resampled(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Estimate(value=value, low=low, high=high, clusters=clusters)


def _sums_per_cluster(statistics: np.ndarray, clusters: Sequence[Hashable]) -> np.ndarray:
    """Sums of rows per cluster. Shape: (Q, S), (Q,) -> (G, S)"""
    return np.stack([_per_cluster(column.tolist(), clusters) for column in statistics.T], axis=-1)


def _resampled_sums(sums: np.ndarray) -> np.ndarray:
    """Sums over clusters drawn with replacement. Shape: (G, S) -> (R, S)"""
    count = len(sums)
    random = np.random.default_rng(SEED)
    rows = max(1, _CELLS_AT_ONCE // count)
    drawn = []
    for start in range(0, RESAMPLES, rows):
        places = random.integers(count, size=(min(rows, RESAMPLES - start), count))
        drawn.append(np.stack([column[places].sum(axis=1) for column in sums.T], axis=-1))
    return np.concatenate(drawn)


def _per_cluster(values: Sequence[float], clusters: Sequence[Hashable]) -> np.ndarray:
    """Sums per cluster, in the order of the clusters' first questions. Shape: (Q,), (Q,) -> (G,)"""
    numbers: dict[Hashable, int] = {}
    index = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    return np.bincount(index, weights=np.asarray(values, dtype=np.float64), minlength=len(numbers))


def _exact_bounds(value: float, bounds: tuple[float, float], count: int) -> tuple[float, float]:
    """Clopper-Pearson interval for 0 or ``count`` successes, mapped from [0, 1] to the bounds."""
    least, largest = bounds
    reach = 1 - ((1 - LEVEL) / 2) ** (1 / count)
    if value == largest:
        return largest - reach * (largest - least), largest
    return least, least + reach * (largest - least)
