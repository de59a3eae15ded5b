"""The two published numbers of zero-shot video QA, straight from judgements: what stored scores are compared with."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vidtune.evaluation.judges.replies import read_literal


@dataclass(frozen=True)
class Aggregate:
    """The published numbers over all judgements; the two have different denominators.

    Args:
        accuracy: yes / (yes + no), 0 to 1; None when no judgement says either.
        average_score: sum of scores / count; None without judgements.
    """

    count: int
    yes: int
    no: int
    score_sum: int

    @property
    def accuracy(self) -> float | None:
        return self.yes / (self.yes + self.no) if self.yes + self.no else None

    @property
    def average_score(self) -> float | None:
        return self.score_sum / self.count if self.count else None


def aggregate(judgements: Iterable[Any]) -> Aggregate:
    """Returns the published numbers, from one judgement per question id."""
    verdicts = [read_literal(judgement) for judgement in judgements]
    return Aggregate(
        count=len(verdicts),
        yes=sum(verdict.correct is True for verdict in verdicts),
        no=sum(verdict.correct is False for verdict in verdicts),
        score_sum=sum(verdict.score or 0 for verdict in verdicts),
    )
