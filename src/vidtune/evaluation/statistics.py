"""Intervals of scores whose questions come in clusters: answers to questions about one video are not independent.

Every value is a function of sums over the questions: a ratio of two sums, or BLEU and METEOR of a corpus. Its variance
is that of the jackknife, which leaves out one whole video at a time (Efron & Stein, The Jackknife Estimate of Variance,
Annals of Statistics 1981; clustering in model evaluation: Miller, Adding Error Bars to Evals, arXiv:2411.00640). Two
runs are compared by the difference over the questions of both, whose videos are left out together; that removes the
difficulty they share (ibid.). Five corrections make the interval hold on few videos; `benchmarks/intervals.py`
measures how often it contains the truth:

- Student's t in the place of the normal distribution. Videos with unequal numbers of questions count for fewer: halfway
  to Kish's effective number (Survey Sampling, 1965). Two thirds of a degree of freedom less than that, not a whole one:
  the next corrections make up for the rest. Where the values have heavy tails the variance itself is known less well:
  then as many degrees of freedom (Satterthwaite, Biometrics Bulletin 1946) as the fourth moment says, and one more.
- The bounds are solved with the variance that the value would have there, as in Wilson's interval of a proportion
  (JASA 1927): it shrinks towards the smallest and the largest possible value.
- How fast the variance changes with the value is the third moment over the squared variance, in every natural
  exponential family (Morris, Annals of Statistics 1982). Where few captions have a high CIDEr it changes faster than
  the possible range says: each bound takes the rate, of range or of moments, that moves it further out (compare
  Johnson, Modified t Tests and Confidence Intervals for Asymmetrical Populations, JASA 1978).
- Few answers unlike the others say little about how videos differ. As far as that is so, the variance is moved towards
  its largest value, at which all answers about one video are alike. What is known grows with the number of these
  answers and of videos, and, where answers about one video differ, with the number of its questions.
- Questions that are all alike have no variance. Then at most a share r of videos is unlike them, where seeing none of
  these in all G videos has the probability (1 - r) ** G = 0.025 (Clopper & Pearson, Biometrika 1934).

No interval holds whatever the values are: few of them need not show the tail that the mean hangs on (Bahadur & Savage,
Annals of Mathematical Statistics 1956). Six captions, most of a low and few of a very high value, are such a case.

One or two videos give no interval: two values say nothing about a spread that t with one degree of freedom would not
multiply by 13.

Legend: Q questions, G clusters (videos), S sums that a value is computed from.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache

import numpy as np
from pydantic import BaseModel, ConfigDict

LEVEL = 0.95
FEWEST_CLUSTERS = 3
METHOD = "jackknife over videos, Student's t, bounds as in Wilson's interval"
SHARE = (0.0, 1.0)
SHARE_DIFFERENCE = (-1.0, 1.0)
# Found by simulation, as is the factor of two at `told`: the weight of the largest variance, as a number of videos; and
# the degrees of freedom that a value takes.
_PRIOR_CLUSTERS = 0.15
_LOST_FREEDOM = 2 / 3
# A value as near as this to a possible extreme, as a share of their distance, is that extreme: constants that are added
# to the counts keep BLEU above zero.
_NEAR = 1e-4

Bounds = tuple[float, float]
FromSums = Callable[[np.ndarray], np.ndarray]


class Estimate(BaseModel):
    """A value with its 95 % interval.

    Args:
        low, high: bounds of the interval; None when there is none: less than three clusters, or equal values of a kind
            without bounds.
        clusters: number of videos that the value is computed from.
    """

    model_config = ConfigDict(frozen=True)

    value: float
    low: float | None
    high: float | None
    clusters: int

    @property
    def without_interval(self) -> str:
        """Why there is no interval, in a few words; empty when there is one."""
        if self.low is not None:
            return ""
        few = f"{self.clusters} video{'s' if self.clusters != 1 else ''}: too few for an interval"
        return few if self.clusters < FEWEST_CLUSTERS else "no interval"

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
    bounds: Bounds = SHARE,
) -> Estimate | None:
    """Sum of numerators over sum of denominators, for example right answers over answers.

    Args:
        numerators, denominators: (Q,) one entry per question; one with the denominator 0 belongs to no video.
        clusters: (Q,) video of each question.
        bounds: smallest and largest possible value; values beyond them are taken for unbounded.

    Returns:
        None when the denominators sum to zero.
    """
    total = float(np.sum(denominators))
    if total == 0:
        return None
    rows = np.stack([np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)], axis=-1)
    used = rows[:, 1] != 0
    kept = [cluster for cluster, keep in zip(clusters, used.tolist(), strict=True) if keep]
    return _estimate(float(np.sum(numerators)) / total, rows[used], _quotient, kept, bounds)


def mean_difference(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable],
    bounds: Bounds = SHARE_DIFFERENCE,
) -> Estimate | None:
    """Mean of ``first - second`` over paired questions; None without questions.

    Shape: (Q,), (Q,), (Q,)
    """
    return ratio(np.subtract(first, second).tolist(), [1.0] * len(first), clusters, bounds)


def of_sums(
    statistics: np.ndarray, from_sums: FromSums, clusters: Sequence[Hashable], bounds: Bounds = SHARE
) -> Estimate | None:
    """A value computed from sums over the questions.

    Args:
        statistics: (Q, S) one row per question.
        from_sums: (..., S) -> (...) computes the value from sums of rows.
        clusters: (Q,) video of each question.
        bounds: smallest and largest possible value; values beyond them are taken for unbounded.

    Returns:
        None without questions.
    """
    if not len(statistics):
        return None
    return _estimate(float(from_sums(statistics.sum(axis=0))), statistics, from_sums, clusters, bounds)


def difference_of_sums(
    first: np.ndarray,
    second: np.ndarray,
    from_sums: FromSums,
    clusters: Sequence[Hashable],
    bounds: Bounds = SHARE_DIFFERENCE,
) -> Estimate | None:
    """The value of ``first`` minus that of ``second`` over paired questions.

    Shape: (Q, S), (Q, S), (..., S) -> (...), (Q,)
    """
    width = first.shape[1] if len(first) else 0

    def difference(both: np.ndarray) -> np.ndarray:
        return from_sums(both[..., :width]) - from_sums(both[..., width:])

    return of_sums(np.concatenate([first, second], axis=-1), difference, clusters, bounds) if width else None


def _estimate(
    value: float, rows: np.ndarray, from_sums: FromSums, clusters: Sequence[Hashable], bounds: Bounds
) -> Estimate:
    index, sizes = numbered(clusters)
    count = len(sizes)
    if count < FEWEST_CLUSTERS:
        return Estimate(value=value, low=None, high=None, clusters=count)
    least, largest = bounds if bounds[0] <= value <= bounds[1] else (-np.inf, np.inf)
    by_question = _influence(value, rows, from_sums)
    alike = not by_question.any() or min(value - least, largest - value) <= _NEAR * (largest - least) < np.inf
    if alike:
        reach = 1 - ((1 - LEVEL) / 2) ** (1 / count)
        low, high = value - reach * (value - least), value + reach * (largest - value)
        # Answers that are all alike, of a kind without bounds, say nothing about those that differ.
        found = (low, high) if np.isfinite([low, high]).all() else (None, None)
        return Estimate(value=value, low=found[0], high=found[1], clusters=count)
    sums = np.stack([np.bincount(index, weights=column, minlength=count) for column in rows.T], axis=-1)
    effective = sizes.sum() ** 2 / (sizes**2).sum()
    variance, known = _variance(by_question, _influence(value, sums, from_sums), effective)
    freedom = min((count + effective) / 2 - _LOST_FREEDOM, known + 1)
    quantile = _student(round(freedom, 2))  # rounded for the cache
    low, high = _bounded(value, quantile**2 * variance, _rate(by_question), least, largest)
    return Estimate(value=value, low=low, high=high, clusters=count)


def _influence(value: float, rows: np.ndarray, from_sums: FromSums) -> np.ndarray:
    """How far the value moves when one row is left out. Shape: (R, S) -> (R,)"""
    with np.errstate(divide="ignore", invalid="ignore"):
        without = from_sums(rows.sum(axis=0) - rows)
    # Rounding alone moves a value by less than this; without the only row that counts there is no value.
    moved = np.nan_to_num(without - value, nan=0.0, posinf=0.0, neginf=0.0)
    return np.where(np.abs(moved) > 1e-12 * max(1.0, abs(value)), moved, 0.0)


def _variance(by_question: np.ndarray, by_cluster: np.ndarray, effective: float) -> tuple[float, float]:
    """The variance of a value, from what leaving out questions (Q,) and videos (G,) changes.

    Args:
        effective: effective number of videos.

    Returns:
        The variance, and the number of normal values that would say as much about it, at most G - 1.
    """
    count, per_cluster = len(by_cluster), len(by_question) / effective
    seen = (count - 1) / count * float((by_cluster**2).sum())
    independent = float((by_question**2).sum())  # if the answers about a video were independent
    largest = independent * per_cluster  # if they were all alike
    # The fourth moment tells what videos say about the spread. A mean over a video's answers is nearer to the normal
    # distribution, whose fourth moment is 3, than one answer is; not so where they are alike.
    fourth = float((by_question**4).mean()) / float((by_question**2).mean()) ** 2
    unlike = len(by_question) / fourth  # the number of rare answers; all of them where none is rare
    fourth = 3 + (fourth - 3) * min(1.0, max(seen / largest, 1 / per_cluster))
    known = count - 1.0 if fourth <= 1 else min(count - 1.0, 2 * effective / (fourth - 1))
    told = min(known, (unlike - 1) / 2)
    prior = _PRIOR_CLUSTERS * (1 - told / (count - 1))
    variance = (told * seen + prior * largest) / (told + prior)
    return variance if variance > 1e-9 * independent else independent, known


def _rate(by_question: np.ndarray) -> float:
    """Rate at which the variance changes with the value, as a share of it: third moment over squared variance.

    Shape: (Q,)
    """
    values = (1 - len(by_question)) * by_question  # a question that is left out moves the value the other way
    return float((values**3).mean()) / float((values**2).mean()) ** 2


def _bounded(value: float, square: float, rate: float, least: float, largest: float) -> tuple[float, float]:
    """Each x with ``(value - x)² = square f(x) / f(value)``; for ``f(x) = (x - least)(largest - x)`` Wilson's interval.

    Args:
        rate: ``f'(value) / f(value)`` that the answers show; a bound moves no further in by it.
    """
    if not np.isfinite(largest - least):
        return value - square**0.5, value + square**0.5
    full = (value - least) * (largest - value)
    possible = (least + largest - 2 * value) / full

    def bound(rate: float, side: float) -> float:
        pull, curved = square * rate / 2, 1 + square / full
        return min(largest, max(least, value + (pull + side * (pull**2 + square * curved) ** 0.5) / curved))

    return bound(min(rate, possible), -1), bound(max(rate, possible), 1)


def _quotient(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def numbered(clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Number of each question's cluster, and numbers of questions. Shape: (Q,) -> (Q,), (G,)"""
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)
    return index, np.bincount(index).astype(np.float64)


@lru_cache(maxsize=4096)
def _student(freedom: float) -> float:
    """Quantile of Student's t, at half of what the level leaves on each side.

    With ``t = sqrt(freedom) * tan(angle)`` the density becomes ``cos(angle) ** (freedom - 1)``.
    """
    angles = np.linspace(0, min(np.pi / 2, 12 / freedom**0.5), 4001)
    density = np.cos(angles) ** (freedom - 1)
    inside = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    angle = np.interp(LEVEL, inside / inside[-1], angles)
    return float(np.sqrt(freedom) * np.tan(angle))
