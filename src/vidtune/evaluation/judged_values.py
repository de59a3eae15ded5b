"""Numbers that the verdicts of a judge add up to.

Legend: S sums that a value is computed from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from vidtune.evaluation.judges.replies import HIGHEST_SCORE, Verdict
from vidtune.evaluation.outcome import Metric

ACCURACY = Metric("accuracy", None, scale=1.0, right_or_wrong=True)
AVERAGE_SCORE = Metric("average_score", None, highest=float(HIGHEST_SCORE), scale=1.0)
LARGEST = 10**300
"""Scores beyond this are added as this: a reply may hold an integer that no float can."""
WRONG = Verdict(0, False)


@dataclass(frozen=True)
class JudgedValues:
    """What a score of a judged benchmark consists of.

    Args:
        metrics: in the order in which they are shown.
        rows: (verdict, type of the question) -> metric -> (S,) sums that the verdict adds to it; absent when it adds
            nothing.
        worst: the verdict with which a question without one counts in strict values.
    """

    metrics: tuple[Metric, ...]
    rows: Callable[[Verdict, str | None], Mapping[str, Sequence[float]]]
    worst: Verdict = WRONG


def score_sum(verdict: Verdict) -> tuple[float, float]:
    """Sum and number of one score; one that cannot be read counts as 0, as published."""
    return float(min(max(verdict.score or 0, -LARGEST), LARGEST)), 1.0


def _yes_and_score(verdict: Verdict, kind: str | None) -> dict[str, Sequence[float]]:
    rows: dict[str, Sequence[float]] = {AVERAGE_SCORE.name: score_sum(verdict)}
    if verdict.correct is not None:
        rows[ACCURACY.name] = (float(verdict.correct), 1.0)
    return rows


YES_AND_SCORES = JudgedValues((ACCURACY, AVERAGE_SCORE), _yes_and_score)
"""Accuracy and average score over all questions."""


def average_score_of(kinds: Sequence[str]) -> JudgedValues:
    """The average score of each of these question types alone."""
    return JudgedValues(tuple(replace(AVERAGE_SCORE, type=kind) for kind in kinds), _yes_and_score)
