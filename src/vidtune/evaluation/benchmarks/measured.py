"""Interface of benchmarks whose answers metrics score, without a judge.

Metrics compare an answer with the ``reference`` of its question. A run stores the references, so that its answers can
be measured again, with another metric or where a program was missing before.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.metrics.base import TaskValues
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.protocol import Protocol


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a run with its answer.

    Args:
        pred: answer of the model; None: there is none (not asked, failed, or no video).
        second: answer to `Question.second`, which stands where ``pred`` does; None: there is none.
        place: place of the answer among those of the run, see `RunFolder.predictions`.
    """

    index: int
    id: str
    video: str
    type: str
    reference: Mapping[str, Any]
    pred: str | None
    place: int = 0
    second: str | None = None


@dataclass(frozen=True)
class Measured:
    """What metrics computed for a run; the items of the values are question indices.

    Args:
        official: question type -> values over the answered questions.
        strict: question type -> values over all questions; one without an answer counts as an empty answer.
        left_out: metric -> reason why it could not be computed here.
    """

    official: Mapping[str, TaskValues[int]]
    strict: Mapping[str, TaskValues[int]]
    left_out: Mapping[str, str] = field(default_factory=dict)


class MeasuredBenchmark(Benchmark):
    """A test set whose answers metrics score.

    Args:
        judged_instead: a judge scores them, unless metrics are asked for by their name.
    """

    judged_instead: bool = False

    def under(self, protocol: Protocol) -> "MeasuredBenchmark":
        """Returns the benchmark as it scores a run with these rules; the rules of few benchmarks change a value."""
        return self

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """What is computed from the answers, in the order in which it is shown."""

    @property
    def every_answer_counts(self) -> tuple[str, ...]:
        """Question types of which the published scorer counts every answer, where a log holds several to a question."""
        return ()

    @property
    @abstractmethod
    def measuring(self) -> dict[str, Any]:
        """Everything that can change a value, as JSON values; stored in every score."""

    @abstractmethod
    def measure(self, items: Sequence[Item]) -> Measured:
        """Measure the answers of a run. A metric that cannot be computed here is left out, with the reason."""
