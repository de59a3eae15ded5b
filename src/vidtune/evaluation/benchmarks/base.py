"""What every benchmark offers: its questions, read from the official files, and its default protocol."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.protocol import Protocol


@dataclass(frozen=True, slots=True)
class Question:
    """One question, already paired with its reference answer.

    Args:
        index: position in the test set, unique and independent of chunking.
        id: the official id, as a string; the test set may repeat one.
        video: name of the video: the cluster of the statistics.
        file: path of the video below `QuestionSet.folder`; None when it does not exist.
        type: question type by name, if the benchmark has types.
    """

    index: int
    id: str
    video: str
    file: str | None
    question: str
    answer: str | int | float
    type: str | None = None


@dataclass(frozen=True)
class QuestionSet:
    """The questions of a benchmark as found on disk.

    Args:
        folder: absolute path below which every video lies.
        fingerprint: hash of the question and answer files.
    """

    benchmark: str
    folder: Path
    fingerprint: str
    questions: tuple[Question, ...] = field(repr=False)


def chunk(questions: Sequence[Question], rank: int, count: int) -> Sequence[Question]:
    """The ``rank``-th of ``count`` consecutive slices of ``ceil(n / count)`` questions; late slices may be empty."""
    if not 0 <= rank < count:
        raise UserError(f"chunk {rank} of {count} does not exist; chunks are numbered from 0 to {count - 1}")
    size = -(-len(questions) // count)
    return questions[rank * size : (rank + 1) * size]


class Benchmark(ABC):
    """A test set with its rules."""

    name: str
    title: str
    source: str

    @abstractmethod
    def load(self, data: Path) -> QuestionSet:
        """Read the questions below ``data``; raises UserError naming the file and what is wrong with it."""

    @abstractmethod
    def protocol(
        self,
        *,
        prompt_format: str,
        stop: Sequence[str] = (),
        preprocessing: Mapping[str, Any] | None = None,
        blind: bool = False,
    ) -> Protocol:
        """The default rules for a system with this conversation format and preprocessing."""
