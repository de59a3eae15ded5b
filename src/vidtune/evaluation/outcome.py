"""What a score is made of: metrics, the outcome of every question, and the sources that outcomes come from.

A judge and a program that measures answers differ only in where the outcomes come from (`ScoreSource`). Everything
after that is the same for both: values with intervals (`scoring`), paired differences (`comparison`), the report.

Legend: Q questions, S sums that a value is computed from.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vidtune.evaluation.judges.base import ExpectedUsage, JudgingStoppedError, JudgingSummary
from vidtune.evaluation.ledger import Entry
from vidtune.evaluation.metrics.base import mean_of_sums
from vidtune.evaluation.statistics import Estimate, difference_of_sums, of_sums, ratio


@dataclass(frozen=True)
class Metric:
    """One number that a score reports.

    Args:
        name: name of the number, as it is published.
        type: type of the questions that it is computed on; None: all questions, and also each type separately.
        highest: largest possible value, before scaling.
        scale: factor of the reported value; 100 for percent.
        of_one: name of the value of a single answer; None: it is not shown.
        from_sums: (..., S) -> (...) computes the value from sums over questions.
        right_or_wrong: the value of one answer is 1 (right) or 0 (wrong).
        of_all: computed over all questions alone, not of each type.
    """

    name: str
    type: str | None
    highest: float = 1.0
    scale: float = 100.0
    of_one: str | None = None
    from_sums: Callable[[np.ndarray], np.ndarray] = mean_of_sums
    right_or_wrong: bool = False
    of_all: bool = False

    @property
    def is_share(self) -> bool:
        """Whether reported values go from 0 to 1: they are shown in percent."""
        return self.highest * self.scale == 1

    def estimate(self, rows: np.ndarray, videos: Sequence[str]) -> Estimate | None:
        """The scaled value with its interval; None without rows. Shape: (Q, S), (Q,)"""
        bounds = (0.0, self.highest)
        if self.from_sums is not mean_of_sums:
            found = of_sums(rows, self.from_sums, videos, bounds)
        else:
            tops, bottoms = rows.reshape(-1, 2).T.tolist()
            found = ratio(tops, bottoms, videos, bounds)
        return found and found.scaled(self.scale)

    def difference(self, first: np.ndarray, second: np.ndarray, videos: Sequence[str]) -> Estimate | None:
        """The scaled value of one run minus that of another, over paired questions. Shape: (Q, S), (Q, S), (Q,)"""
        found = difference_of_sums(first, second, self.from_sums, videos, (-self.highest, self.highest))
        return found and found.scaled(self.scale)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one planned question.

    Args:
        entry: the question with its states of asking and judging.
        official: metric -> (S,) sums that this question adds to the official value; absent when it adds nothing.
        strict: metric -> (S,) sums that this question adds to the strict value.
        published: the same for the number that the published script prints, which also counts verdicts that are
            unreadable or outside the scale.
        verdict: "right", "wrong" or "unclear" (the judge said neither); "judged" where it gave points alone, as asked;
            "measured" where metrics take the place of a judge; None: not scored.
        points: score given by the judge, on the scale of its prompt (video QA: 0 to 5).
        values: name -> value of this answer alone, scaled; only what a report shows.
    """

    entry: Entry
    official: Mapping[str, Sequence[float]] = field(default_factory=dict)
    strict: Mapping[str, Sequence[float]] = field(default_factory=dict)
    published: Mapping[str, Sequence[float]] = field(default_factory=dict)
    verdict: str | None = None
    points: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def index(self) -> int:
        return self.entry.index

    @property
    def video(self) -> str:
        return self.entry.video

    @property
    def type(self) -> str | None:
        return self.entry.type

    def sums(self, strict: bool) -> Mapping[str, Sequence[float]]:
        """Metric -> (S,) sums of the strict or of the official value."""
        return self.strict if strict else self.official


@dataclass(frozen=True)
class Collected:
    """Outcomes of one run, from one source.

    Args:
        outcomes: of every planned question, in the order of the test set.
        identity: everything that can change a value, as JSON values: the judge, or the programs that measure.
        left_out: metric -> reason why it could not be computed here.
        summary: what the judge did now; None when no judge was asked.
        stopped: why the judge ended before all answers were judged.
    """

    outcomes: list[Outcome]
    identity: Mapping[str, Any]
    left_out: Mapping[str, str] = field(default_factory=dict)
    summary: JudgingSummary | None = None
    stopped: JudgingStoppedError | None = None


class ScoreSource(ABC):
    """Where the outcomes of one run come from.

    Args:
        name: name of the source in scores and of the score file: a judge's name, or "metrics".
        metrics: what is computed, in the order in which it is shown.
    """

    name: str
    metrics: tuple[Metric, ...]

    @abstractmethod
    def collect(self, progress: bool) -> Collected:
        """Judge or measure what has to be, store it with the run, and return all outcomes.

        Raises:
            UserError: no question was asked yet, or the answers cannot be judged or measured.
        """

    def expected(self) -> ExpectedUsage:
        """What `collect` will take from a judge; asks nobody."""
        return ExpectedUsage()

    @abstractmethod
    def stored(self) -> list[Outcome]:
        """Outcomes from what was stored before, in the order of the test set; asks and computes nothing.

        Raises:
            UserError: nothing was stored by this source.
        """

    @abstractmethod
    def no_value(self, metric: Metric, outcomes: Sequence[Outcome]) -> str | None:
        """The reason why a metric has no value over these questions."""


def rows_of(outcomes: Sequence[Outcome], metric: Metric, strict: bool) -> tuple[np.ndarray, list[str]]:
    """The sums that these questions add to a metric, and their videos. Shape: (Q, S), (Q,)"""
    rows, videos = [], []
    for outcome in outcomes:
        row = outcome.sums(strict).get(metric.name)
        if row is not None and metric.type in (None, outcome.type):
            rows.append(row)
            videos.append(outcome.video)
    return np.array(rows, dtype=np.float64), videos
