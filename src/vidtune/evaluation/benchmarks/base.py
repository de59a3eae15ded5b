"""What every benchmark offers: its questions, read from the official files, and its default protocol.

A benchmark is judged (free-form answers, `evaluation.judging`) unless it is a `benchmarks.measured.MeasuredBenchmark`,
whose answers are measured by metrics.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.test_set_files import feature_files
from vidtune.evaluation.protocol import Protocol
from vidtune.evaluation.runs.prediction import Prediction

OFFICIAL_FIELDS = ("id", "question", "answer", "pred")


@dataclass(frozen=True, slots=True)
class Question:
    """One question, already paired with its reference answer.

    Args:
        index: position in the test set, unique and independent of chunking.
        id: the official id, as a string; the test set may repeat one.
        video: name of the video: the cluster of the statistics.
        file: path of the video below `QuestionSet.folder`; None when it does not exist.
        type: question type by name, if the benchmark has types.
        fields: what stands for further names in the protocol's template of this type.
        reference: what metrics compare the answer with, as JSON values; None where a judge compares with ``answer``.
        features: (stream, path) of stored features that stand in for the file.
    """

    index: int
    id: str
    video: str
    file: str | None
    question: str
    answer: str | int | float
    type: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    reference: Mapping[str, Any] | None = None
    features: tuple[tuple[str, str], ...] = ()

    @property
    def missing(self) -> bool:
        """Whether there is nothing to ask about."""
        return self.file is None and not self.features


@dataclass(frozen=True)
class QuestionSet:
    """The questions of a benchmark as found on disk.

    Args:
        folder: absolute path below which every video lies.
        fingerprint: hash of the question and answer files.
        features: stream -> absolute folder of stored features that are read instead of the videos.
    """

    benchmark: str
    folder: Path
    fingerprint: str
    questions: tuple[Question, ...] = field(repr=False)
    features: Mapping[str, str] = field(default_factory=dict)


def chunk(questions: Sequence[Question], rank: int, count: int) -> Sequence[Question]:
    """The ``rank``-th of ``count`` consecutive slices of ``ceil(n / count)`` questions; late slices may be empty."""
    if not 0 <= rank < count:
        raise UserError(f"chunk {rank} of {count} does not exist; chunks are numbered from 0 to {count - 1}")
    size = -(-len(questions) // count)
    return questions[rank * size : (rank + 1) * size]


class Benchmark(ABC):
    """A test set with its rules.

    Args:
        official_file: name of the file with the answers in the form that the published scripts read.
        metrics: what is computed from the answers, in the order in which it is shown; empty: a judge scores them.
        system_rules: name of a system -> changes to the protocol with which that system was published.
    """

    name: str
    title: str
    source: str
    official_file: str = "merge.jsonl"
    system_rules: Mapping[str, Mapping[str, Any]]

    @abstractmethod
    def load(self, data: Path) -> QuestionSet:
        """Read the questions below ``data``; raises UserError naming the file and what is wrong with it."""

    def with_features(self, questions: QuestionSet, folders: Mapping[str, Path], stream: str) -> QuestionSet:
        """The questions with stored features in the place of videos.

        Args:
            folders: stream -> folder of feature files, named after the videos.
            stream: the protocol's; a video without a feature file of this one is missing.

        Raises:
            UserError: no such folder.
        """
        found = {name: feature_files(name, folder) for name, folder in folders.items()}
        return replace(
            questions,
            features={name: str(Path(folder).resolve()) for name, folder in folders.items()},
            questions=tuple(_with_features(question, found, stream) for question in questions.questions),
        )

    def official_records(
        self, predictions: Sequence[Prediction], references: Mapping[int, Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """The answered questions as the published scripts record them.

        Args:
            references: by question index, for benchmarks whose questions have one.
        """
        for prediction in predictions:
            if prediction.error is None:
                yield {name: getattr(prediction, name) for name in OFFICIAL_FIELDS}

    def from_official(self, record: Mapping[str, Any]) -> tuple[str, str]:
        """Question id and answer of a record that `official_records` or a published script wrote.

        Raises:
            KeyError: a field that is not there.
        """
        return str(record["id"]), str(record["pred"])

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


def _with_features(question: Question, found: Mapping[str, Mapping[str, str]], stream: str) -> Question:
    """The question with the feature files of its video; without anything when there is nothing for the stream."""
    nothing = question.video not in found[stream] if stream in found else question.file is None
    if nothing:
        return replace(question, file=None, features=())
    features = tuple((name, files[question.video]) for name, files in found.items() if question.video in files)
    return replace(question, features=features)
