"""Interface of benchmarks: questions read from the official files, and a default protocol.

A judge scores the free-form answers of a benchmark (`evaluation.scores.judging`), unless the benchmark is a
`benchmarks.measured.MeasuredBenchmark`: then metrics score them.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.downloads.records import Facts
from vidtune.evaluation.benchmarks.named_files import Named
from vidtune.evaluation.benchmarks.test_set_files import feature_files
from vidtune.evaluation.judged_values import YES_AND_SCORES, JudgedValues
from vidtune.evaluation.judges.base import Judgement
from vidtune.evaluation.protocol import FileLookup, GenerationRules, Protocol
from vidtune.evaluation.question import Prediction, Question, QuestionSet
from vidtune.machine.progress import ProgressCallback, no_progress
from vidtune.registry import BENCHMARKS

OFFICIAL_FIELDS = ("id", "question", "answer", "pred")


@dataclass(frozen=True, slots=True)
class OfficialAnswer:
    """What a record of a log holds.

    Args:
        ids: id of the question; several if the record names different ones.
        answer: as it stands in the record; None: there is none.
    """

    ids: tuple[str, ...]
    answer: Any


class Benchmark(ABC):
    """A test set with its rules.

    Args:
        name: name in commands, recipes and folders of runs.
        title: name in print.
        source: where the questions come from.
        official_file: name of the file of JSON lines that holds the answers in the form of the published scripts.
        system_rules: system -> changes to the protocol with which its published numbers were made.
        version: of the rules; a new one makes another protocol.
        lookup: where the videos are in the folder of the set.
        generation: how answers are decoded.
        record_of: name of the benchmark whose questions it asks by other rules; empty: they are its own.
        frames: rules of `models.frames.FrameRule` by which a model without rules of its own is shown the videos.
        judged: numbers that the verdicts of a judge add up to.
        server: who scores uploaded answers; empty: nobody, they are scored here alone.
        upload_file: path of the file to upload, below the folder of the set in an official evaluation folder, with
            ``{model}``; empty: there is none.
        answers_file: path of a file of `official_files` there, with ``{model}`` and ``{file}``, its name.
        default_data: folder of the test set where a user names none; None: it has to be named.
        facts: size and downloads of the test set, as `downloads` holds them for those of this package.
        other_streams: streams that read the files of those questions that name them (`Question.stream`).
    """

    name: str
    title: str
    source: str
    official_file: str = "merge.jsonl"
    system_rules: Mapping[str, Mapping[str, Any]]
    version: int = 1
    lookup: FileLookup
    generation: GenerationRules = GenerationRules()
    record_of: str = ""
    frames: Mapping[str, Any] = MappingProxyType({"num_frames": 8, "sampling": "linspace"})
    judged: JudgedValues = YES_AND_SCORES
    server: str = ""
    upload_file: str = ""
    answers_file: str = "{model}/{file}"
    default_data: Path | None = None
    facts: Facts | None = None
    other_streams: tuple[str, ...] = ()

    @property
    def stream(self) -> str:
        """Name of the stream that reads the files of the questions, by the default protocol."""
        return self.protocol(prompt_format="").stream

    @property
    def medium(self) -> str:
        """What the questions are about, for messages: "picture", "video" or, where it is both, "file"."""
        if self.other_streams:
            return "file"
        return "picture" if self.stream == "image" else "video"

    @abstractmethod
    def load(self, data: Path) -> QuestionSet:
        """Read the questions in ``data`` or a folder of it.

        Raises:
            UserError: a file is missing or broken; names the file and the mistake.
        """

    def prepare(self, data: Path, progress: ProgressCallback = no_progress) -> Iterator[str]:
        """Make files that the published scripts make of a download, unless they are there.

        Yields:
            What could not be made, and why.

        Raises:
            UserError: nothing has to be made for this benchmark, or its files are missing or broken.
        """
        raise UserError(f"{self.name}: nothing has to be prepared; its files are read as they are downloaded")

    def with_features(self, questions: QuestionSet, folders: Mapping[str, Path], stream: str) -> QuestionSet:
        """Returns the questions with stored features in the place of videos.

        Args:
            folders: stream -> folder of feature files, named after the videos.
            stream: stream of the protocol; a video without a feature file of this stream is missing.

        Raises:
            UserError: no such folder.
        """
        names = [question.video for question in questions.questions if question.stream in (None, stream)]
        prefix = self.protocol(prompt_format="").file_lookup.prefix
        found = {name: feature_files(name, folder, names, prefix) for name, folder in folders.items()}
        return replace(
            questions,
            features={name: str(Path(folder).resolve()) for name, folder in folders.items()},
            questions=tuple(_with_features(question, found, stream) for question in questions.questions),
        )

    def lacking(self, questions: QuestionSet) -> Mapping[str, Sequence[str]]:
        """Returns what further files of a test set are not there, by what they are: such as subtitles of videos."""
        return {}

    def submission(self, predictions: Sequence[Prediction], questions: QuestionSet) -> bytes:
        """Returns the file that the server takes.

        Args:
            predictions: of the questions that were asked, in the order of the test set.
            questions: the test set.

        Raises:
            UserError: there is no server, or it takes no file that lacks answers.
        """
        raise UserError(f"{self.name}: no server takes answers to it; `vidtune judge` scores them")

    def official_files(
        self, predictions: Sequence[Prediction], references: Mapping[int, Mapping[str, Any]]
    ) -> Iterator[tuple[str, str]]:
        """Yields name and text of every file that holds the answers in the form of the published scripts.

        Args:
            references: see `official_records`.
        """
        records = self.official_records(predictions, references)
        yield self.official_file, "".join(json.dumps(record) + "\n" for record in records)

    def official_reviews(
        self,
        judgements: Mapping[int, Judgement],
        predictions: Sequence[Prediction],
        questions: QuestionSet,
        judge: str,
        model: str,
    ) -> Iterator[tuple[str, str]]:
        """Yields place, below the folder of the test set, and text of every file in which the published scripts keep
        what a chat model said, and the scores that follow from it.

        Args:
            judgements: those with a reply, by question index; one that could not be read has an ``error``.
            predictions: all answers of the run.
            questions: the test set.
            judge: name of the chat model.
            model: name of the answering model.
        """
        return iter(())

    def official_records(
        self, predictions: Sequence[Prediction], references: Mapping[int, Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Yields the answered questions in the form of the published scripts.

        Args:
            references: question index -> reference, for benchmarks whose questions have one.
        """
        for prediction in predictions:
            if prediction.error is None:
                yield {name: getattr(prediction, name) for name in OFFICIAL_FIELDS}

    def from_official(self, record: Mapping[str, Any]) -> "OfficialAnswer | None":
        """Returns the answer in a record that `official_records` or a published script wrote.

        Returns:
            None for a record that the published scorer leaves out.

        Raises:
            KeyError: a field is missing.
            UserError: the record holds several answers.
        """
        ids = dict.fromkeys(str(value) for value in _values(record, "id", "question_id"))
        if not ids:
            raise KeyError("id")
        return OfficialAnswer(tuple(ids), answer_of(record, "pred", "prediction", "text"))

    def protocol(
        self,
        *,
        prompt_format: str,
        stop: Sequence[str] = (),
        preprocessing: Mapping[str, Any] | None = None,
        blind: bool = False,
    ) -> Protocol:
        """Returns the default protocol for a system with this prompt format and preprocessing."""
        return Protocol(
            benchmark=self.name,
            version=self.version,
            prompt_format=prompt_format,
            file_lookup=self.lookup,
            preprocessing=dict(preprocessing or {}),
            generation=self.generation.model_copy(update={"stop": tuple(stop)}),
            blind=blind,
            **self.further_rules(),
        )

    def further_rules(self) -> dict[str, Any]:
        """Returns fields of the default protocol that few benchmarks have."""
        return {}


def medium_of_benchmark(benchmark: str) -> str:
    """What the questions of a benchmark are about: "picture" or "video"; "video" where nobody knows the benchmark."""
    return BENCHMARKS[benchmark].medium if benchmark in BENCHMARKS else "video"


def answer_of(record: Mapping[str, Any], *names: str) -> Any:
    """The answer that a record holds under one of these keys; None: it is null.

    Raises:
        KeyError: none of the keys is there; names the first.
        UserError: two of them hold different answers.
    """
    found = _values(record, *names)
    if not found and not any(name in record for name in names):
        raise KeyError(names[0])
    if any(one != found[0] and one == one for one in found):
        held = [name for name in names if record.get(name) is not None]
        raise UserError(f"{' and '.join(map(repr, held))} hold different answers; keep one of them")
    return found[0] if found else None


def _values(record: Mapping[str, Any], *names: str) -> list[Any]:
    return [record[name] for name in names if record.get(name) is not None]


def _with_features(question: Question, found: Mapping[str, Mapping[str, Named]], stream: str) -> Question:
    """The question with the feature files of its video; missing when there is none for the stream."""
    if question.stream not in (None, stream):
        return question
    files = {name: named[question.video] for name, named in found.items()}
    if stream in files and files[stream].file is None:
        return replace(question, file=None, features=(), looked_for=files[stream].looked_for)
    if stream not in files and question.file is None:
        return replace(question, features=())
    similar = next((one for one in files.values() if one.file is not None and one.looked_for), None)
    if similar is not None:
        question = replace(question, looked_for=similar.looked_for, took=similar.file)
    features = tuple((name, one.file) for name, one in files.items() if one.file is not None)
    return replace(question, features=features)
