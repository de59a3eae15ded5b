"""Benchmarks whose answers are measured by metrics, without a judge.

What is compared with is the ``reference`` of each question. A run keeps it, so that stored answers can be measured
again, with another metric or where a program was missing before.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.metrics.base import TaskValues
from vidtune.evaluation.outcome import Metric


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a run with its answer.

    Args:
        pred: what the model answered; None when it was not asked, or could not be.
    """

    index: int
    id: str
    video: str
    type: str
    reference: Mapping[str, Any]
    pred: str | None


@dataclass(frozen=True)
class Measured:
    """What metrics make of a run. Values are of the questions with these indices.

    Args:
        official: question type -> scores over the answered questions.
        strict: over all of them, those without an answer as empty ones.
        left_out: metric -> why it could not be computed here.
    """

    official: Mapping[str, TaskValues[int]]
    strict: Mapping[str, TaskValues[int]]
    left_out: Mapping[str, str] = field(default_factory=dict)


class MeasuredBenchmark(Benchmark):
    """A test set whose answers are measured."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """In the order in which they are shown."""

    @property
    @abstractmethod
    def measuring(self) -> dict[str, Any]:
        """Everything that can change a value, as JSON values; stands in every score."""

    @abstractmethod
    def measure(self, items: Sequence[Item]) -> Measured:
        """Measure the answers of a run; a metric that cannot be computed here is left out with the reason."""
