"""What every benchmark offers: its questions, read from the official files, and its default protocol.

A benchmark is judged (free-form answers, `evaluation.judging`) unless it is a `benchmarks.measured.MeasuredBenchmark`,
whose answers are measured by metrics.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidtune.evaluation.benchmarks.test_set_files import feature_files
from vidtune.evaluation.protocol import Protocol
from vidtune.evaluation.question import Prediction, Question, QuestionSet

OFFICIAL_FIELDS = ("id", "question", "answer", "pred")


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
