"""Paired bootstrap of two runs of one test set: whole videos are drawn again, each with its questions of both runs.

A draw takes as many videos as there are, with replacement, and computes the difference of the two values from the sums
of their questions (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; of clusters: Field & Welsh,
Journal of the Royal Statistical Society B 2007). On few videos its intervals are too narrow: in a
simulation with 5 questions per video 0.82 (5 videos), 0.89 (10), 0.92 (20) and 0.94 (50) of them held the truth, where
0.95 should; those of `evaluation.statistics` 0.94 to 0.96.

Legend: Q questions, G clusters (videos), S sums that a value is computed from.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from vidtune.evaluation.statistics import FEWEST_CLUSTERS, LEVEL, numbered

DRAWS = 10_000
_CELLS = 2_000_000
"""Draws times videos that are in memory at a time."""


@dataclass(frozen=True)
class Bootstrap:
    """Differences of draws.

    Args:
        low, high: interval of 95 %: the percentiles of the differences.
        p: two-sided: twice the share of the draws whose difference is 0 or on the rarer side of it; the smallest is
            2 / (draws + 1).
        draws: number of draws.
    """

    low: float
    high: float
    p: float
    draws: int


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    from_sums: Callable[[np.ndarray], np.ndarray],
    clusters: Sequence[Hashable],
    draws: int = DRAWS,
) -> Bootstrap | None:
    """The value of ``first`` minus that of ``second`` over paired questions, in draws of videos.

    Equal input gives equal draws.

    Args:
        from_sums: (..., S) -> (...) computes the value from sums of rows.

    Shape: (Q, S), (Q, S), (Q,)

    Returns:
        None with less than three videos, or where no draw has a value.
    """
    index, sizes = numbered(clusters)
    count = len(sizes)
    if count < FEWEST_CLUSTERS:
        return None
    rows = np.concatenate([first, second], axis=-1)
    sums = np.stack([np.bincount(index, weights=column, minlength=count) for column in rows.T], axis=-1)
    width, random = first.shape[1], np.random.default_rng(0)
    parts = []
    for begin in range(0, draws, max(1, _CELLS // count)):
        size = min(draws - begin, max(1, _CELLS // count))
        drawn = random.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        both = times.astype(np.float64) @ sums
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append(from_sums(both[:, :width]) - from_sums(both[:, width:]))
    found = np.concatenate(parts)
    found = found[np.isfinite(found)]
    if not len(found):
        return None
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # Sums of equal values in another order differ in their last digits.
    beyond = min(int((found <= 1e-12).sum()), int((found >= -1e-12).sum()))
    return Bootstrap(float(low), float(high), min(1.0, 2 * (beyond + 1) / (len(found) + 1)), len(found))


def holm(values: Sequence[float]) -> list[float]:
    """p values of several comparisons, corrected for their number (Holm, Scandinavian Journal of Statistics 1979)."""
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected, largest = [0.0] * len(values), 0.0
    for place, which in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - place) * values[which]))
        corrected[which] = largest
    return corrected
