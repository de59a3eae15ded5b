"""A test set of one's own as a benchmark: scored by its options, by normalised text, or by a judge.

A question with options is right where the answer names the right one (`metrics.choices.named`). Another one is right,
where no judge is asked, when the answer is one of its reference answers, both normalised (`metrics.punctuation`).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import OfficialAnswer, answer_of
from vidtune.evaluation.benchmarks.measured import Item, Measured, MeasuredBenchmark
from vidtune.evaluation.benchmarks.multiple_choice.base import ANSWER_BY_LETTER, folder_of_pictures
from vidtune.evaluation.benchmarks.named_files import PICTURE_EXTENSIONS, VIDEO_EXTENSIONS, Named, VideoFiles
from vidtune.evaluation.benchmarks.own.lines import OwnFile, OwnQuestion, read_own_file
from vidtune.evaluation.metrics.base import MetricValues, TaskValues, join
from vidtune.evaluation.metrics.choices import ACCURACY, READERS
from vidtune.evaluation.metrics.punctuation import is_same_text
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.protocol import ChoiceRules, FileLookup, GenerationRules, Protocol
from vidtune.evaluation.question import Question, QuestionSet
from vidtune.foreign.containment import stays_below

SUFFIX = ".jsonl"
PATHS = FileLookup(folder="", extensions=("",))
LETTERS = ChoiceRules(wording=f"{{question}}\n{{options}}\n{ANSWER_BY_LETTER}")
BY_LETTER, BY_TEXT = "named", "equal, without case, punctuation, articles and spacing"


@dataclass(frozen=True)
class OwnTestSet(MeasuredBenchmark):
    """The questions of one file.

    Args:
        name: name of the file.
        file: the file; None where nobody knows any more where it was.
        content: hash of what it says, see `OwnFile.content`.
        choices: how questions with options are asked; None: there are none.
        medium_stream: stream that reads the media; where a file asks about videos and pictures, that of videos.
        unread: keys of the file that nothing reads.
        reads: rule by which a letter is read in an answer, see `metrics.choices`.
    """

    name: str
    file: Path | None
    content: str
    choices: ChoiceRules | None
    medium_stream: str
    generation: GenerationRules
    unread: tuple[str, ...] = ()
    reads: str = BY_LETTER
    lookup: FileLookup = PATHS
    source: str = "a test set of one's own"
    other_streams: tuple[str, ...] = ()

    @classmethod
    def of(cls, own: OwnFile) -> "OwnTestSet":
        """The benchmark of a file that was read."""
        with_options = sum(bool(one.options) for one in own.questions)
        stream, *others = own.streams
        return cls(
            name=own.path.name,
            file=own.path,
            content=own.content,
            choices=LETTERS if with_options else None,
            medium_stream=stream,
            other_streams=tuple(others),
            unread=own.unread,
            generation=GenerationRules(max_new_tokens=16) if with_options == len(own.questions) else GenerationRules(),
        )

    @classmethod
    def stored(cls, protocol: Protocol, file: str | None) -> "OwnTestSet":
        """The benchmark of a run, of which the file need not be there any more."""
        return cls(
            name=protocol.benchmark,
            file=None if file is None else Path(file),
            content=protocol.test_file,
            choices=protocol.choices,
            medium_stream=protocol.stream,
            other_streams=tuple(protocol.question_media),
            generation=protocol.generation,
        )

    @property
    def title(self) -> str:  # type: ignore[override]
        return self.name

    @property
    def system_rules(self) -> Mapping[str, Mapping[str, Any]]:  # type: ignore[override]
        return {}

    @property
    def judged_instead(self) -> bool:  # type: ignore[override]
        return self.choices is None

    @property
    def default_data(self) -> Path | None:  # type: ignore[override]
        return None if self.file is None else self.file.parent

    def load(self, data: Path) -> QuestionSet:
        """Read the file, and find its media.

        Args:
            data: folder that the paths of the media start from.

        Raises:
            UserError: no such file or folder, wrong lines (all are named), or a path that leaves the folder.
        """
        if self.file is None:
            raise UserError(f"{self.name}: nobody knows where this test set is; name its file")
        root = Path(data).resolve()
        if not root.is_dir():
            raise UserError(f"{data}: no such folder; give the folder that the paths in {self.name} start from")
        own = read_own_file(self.file)
        names = [_below(root, one.path) for one in own.questions]
        found = _files(self.lookup, root, own, names)
        questions = tuple(
            _question(place, one, name, found[one.stream][name], None if one.stream == own.streams[0] else one.stream)
            for place, (one, name) in enumerate(zip(own.questions, names, strict=True))
        )
        return QuestionSet(self.name, root, own.content, questions, file=str(own.path.resolve()))

    def lacking(self, questions: QuestionSet) -> Mapping[str, Sequence[str]]:
        return {"keys that nothing reads": self.unread}

    def further_rules(self) -> dict[str, Any]:
        choices = {} if self.choices is None else {"choices": self.choices}
        others: dict[str, Any] = {stream: {} for stream in self.other_streams}
        return {"stream": self.medium_stream, "question_media": others, "test_file": self.content, **choices}

    def from_official(self, record: Mapping[str, Any]) -> OfficialAnswer:
        """Returns the answer in a record ``{"id", "answer"}`` of any other model, or in one of our predictions."""
        if record.get("id") is None:
            raise KeyError("id")
        names = [name for name in ("pred", "prediction", "response", "text") if name in record]
        return OfficialAnswer((str(record["id"]),), answer_of(record, *(names or ["answer"])))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (Metric(ACCURACY, None, right_or_wrong=True),)

    @property
    def measuring(self) -> dict[str, Any]:
        return {"letters": self.reads, "texts": BY_TEXT}

    def under(self, protocol: Protocol) -> "OwnTestSet":
        return replace(self, reads="alone") if protocol.by_likelihood else self  # the answer is a letter then

    def measure(self, items: Sequence[Item]) -> Measured:
        kinds = dict.fromkeys(item.type for item in items)
        tasks = {kind: [item for item in items if item.type == kind] for kind in kinds}
        official, strict = ({kind: self._values(mine, way) for kind, mine in tasks.items()} for way in (False, True))
        return Measured(official, strict)

    def _values(self, items: Sequence[Item], strict: bool) -> TaskValues[int]:
        answers = {item.index: item.pred for item in items if item.pred is not None}
        known = {item.index: item for item in items}
        joined = join(answers, known, strict)
        said = {one: self._said(known[one].reference, answers[one]) for one in joined.ids if one in answers}
        right = [said.get(one) is True for one in joined.ids]
        unread = tuple(one for one, found in said.items() if found is None)
        values = {ACCURACY: MetricValues.mean(np.array(right, float))}
        return TaskValues(joined.ids, joined.missing, joined.unknown, unread, values)

    def _said(self, reference: Mapping[str, Any], answer: str) -> bool | None:
        """Whether an answer is right; None: it names no option."""
        if "letter" not in reference:
            return any(is_same_text(answer, one) for one in reference["answers"])
        letter = READERS[self.reads](answer, reference["options"])
        return None if letter is None else letter == reference["letter"]


def _below(root: Path, path: str) -> str:
    """A path as it is below the media root, also one that is absolute and lies there."""
    return str(Path(path).relative_to(root)) if Path(path).is_absolute() and Path(path).is_relative_to(root) else path


def _files(lookup: FileLookup, root: Path, own: OwnFile, names: Sequence[str]) -> dict[str, dict[str, Named]]:
    """Stream -> name -> file or folder of each medium.

    Raises:
        UserError: a path leaves the media root.
    """
    places: dict[str, dict[str, tuple[str, str]]] = {stream: {} for stream in own.streams}
    for one, name in zip(own.questions, names, strict=True):
        places[one.stream][name] = (f"{own.path}: line {one.line}, id {one.id!r}", one.stream)
    return {stream: _files_of(stream, lookup, root, mine) for stream, mine in places.items()}


def _files_of(stream: str, lookup: FileLookup, root: Path, places: Mapping[str, tuple[str, str]]) -> dict[str, Named]:
    videos = stream == "video"
    # Path.is_dir raises OSError for a name that is too long.
    folders = {name for name in places if videos and stays_below(name) and os.path.isdir(root / name)}  # noqa: PTH112
    others = VIDEO_EXTENSIONS if videos else PICTURE_EXTENSIONS
    files = {name: place for name, place in places.items() if name not in folders}
    found = dict(VideoFiles(lookup, root, files, others).found) if files else {}
    return found | {name: folder_of_pictures("", root, name) for name in sorted(folders)}


def _question(index: int, own: OwnQuestion, name: str, found: Named, stream: str | None) -> Question:
    letters = dict(zip(ascii_uppercase, own.options, strict=False))
    reference: dict[str, Any] = {"answers": list(own.answers)}
    if own.options:
        reference = {"letter": own.answers[0], "options": list(own.options)}
    return Question(
        index=index,
        id=own.id,
        video=name,
        file=found.file,
        similar=found.similar,
        looked_for=found.looked_for,
        question=own.question,
        answer=f"{own.answers[0]}. {letters[own.answers[0]]}" if own.options else own.answers[0],
        further_answers=own.answers[1:],
        type=own.type,
        reference=reference,
        options=own.options,
        start=own.start,
        end=own.end,
        fps=own.frame_rate,
        stream=stream,
    )
