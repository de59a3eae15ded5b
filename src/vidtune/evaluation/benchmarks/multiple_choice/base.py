"""Interface of multiple-choice benchmarks: questions with options, answers by a letter or by likelihood.

========  ==================================================================================================
official  as the published scorer computes it: it may leave empty answers out, or draw a letter for an answer that names
          none
strict    every question; an answer that names no option, and a question without an answer, are wrong
========  ==================================================================================================

Two records of one test set, of the authors of a system and of a common harness, are two benchmarks; what their
protocols differ in is what they differ in (`vidtune benchmarks compare`).
"""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.measured import Item, Measured, MeasuredBenchmark
from vidtune.evaluation.benchmarks.named_files import Named, VideoFiles
from vidtune.evaluation.benchmarks.test_set_files import field_of, is_there, read_list
from vidtune.evaluation.metrics.base import MetricValues, TaskValues
from vidtune.evaluation.metrics.choices import ACCURACY, READERS, Choice, guess, score_choices
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.protocol import ChoiceRules, FileLookup, GenerationRules, Protocol
from vidtune.evaluation.question import Question, QuestionSet
from vidtune.foreign.containment import stays_below
from vidtune.media.clip_times import Part

if TYPE_CHECKING:
    from vidtune.media.probe import MediaInfo

PROBING_TIMEOUT = 60.0
ANSWER_BY_LETTER = "Answer with the option's letter from the given choices directly."
BEST_OPTION = "Only give the best option."
MEAN = "mean of tasks"


def frames_of(most: int, least: int = 64) -> dict[str, dict[str, Any]]:
    """Rules for VideoChat-Flash (arXiv:2501.00574): bounds of its number of frames."""
    return {"videochat_flash": {"preprocessing": {"num_frames": most, "min_frames": least}}}


AUTHORS_FRAMES = frames_of(512)
LMMS_EVAL_FRAMES = frames_of(32, 32)
"""What the wrapper of lmms-eval takes unless it is told otherwise."""
_PICTURES = (".jpg", ".jpeg", ".png")
_EMPTY = "the published scorer does not count empty answers"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as the test set holds it.

    Args:
        where: file and entry, for messages.
        id: official id, or place.
        type: the task.
        video: name of the video, or its path, as `FileLookup` completes it.
        options: texts of the options, without letters.
        right: place of the right option, from 0; None: the answer is none of the options.
        start, end: seconds of the part of the video that is asked about.
        frames: the video is a folder of pictures, with this number of them per second; None: a file.
        fields: further texts for the wording of the question.
        media: what is asked about in the place of the video, with tags in the texts; see `Question.media_in_text`.
    """

    where: str
    id: str
    type: str
    video: str
    question: str
    options: tuple[str, ...]
    right: int | None
    start: float | None = None
    end: float | None = None
    frames: float | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    media: tuple[MediaRef, ...] = ()


@dataclass(frozen=True)
class MultipleChoice(MeasuredBenchmark):
    """A set of multiple-choice questions.

    Args:
        choices: how a question is asked.
        reads: name of the rule by which a letter is read in an answer, see `metrics.choices`.
        counts_empty: an empty answer counts as wrong; otherwise the official value leaves it out.
        guesses: for an answer that names no option, the official value takes a letter at random, by the protocol's
            ``generation.seed``.
        mean: how `MEAN`, the mean over the tasks, weighs them: by their number of questions, or all alike; None: there
            is no such number.
        frames_folder: where videos that are folders of pictures are; None: where the others are.
        seed: seed of guesses.
    """

    name: str
    title: str
    source: str
    choices: ChoiceRules
    reads: str
    lookup: FileLookup
    generation: GenerationRules = field(default_factory=lambda: GenerationRules(max_new_tokens=16))
    counts_empty: bool = True
    guesses: bool = False
    mean: Literal["by questions", "of tasks"] | None = None
    seed: int = GenerationRules.model_fields["seed"].default
    frames_folder: str | None = None
    frames: Mapping[str, Any] = field(default_factory=lambda: {"num_frames": 32, "sampling": "linspace"})
    record_of: str = ""
    version: int = 1
    system_rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def by_lmms_eval(self, **changes: Any) -> Self:
        """The same set by the rules of lmms-eval 0.7, a record of its own with these changes."""
        return replace(
            self,
            name=f"{self.name}_lmms_eval",
            title=f"{self.title}, lmms-eval",
            record_of=self.name,
            source=f"{self.source}; rules of lmms-eval 0.7",
            system_rules=LMMS_EVAL_FRAMES,
            **changes,
        )

    @abstractmethod
    def read(self, data: Path) -> tuple[Path, Sequence[Asked], bytes]:
        """Returns the folder of the test set, its questions, and the content of its annotation files.

        Args:
            data: folder of the test set, or one above it.

        Raises:
            UserError: a file is missing or broken, or an entry has the wrong form; names file, entry and key.
        """

    def load(self, data: Path) -> QuestionSet:
        folder, asked, content = self.read(Path(data))
        if not asked:
            raise UserError(f"{folder}: holds no question of {self.title}")
        names = {one.video: (one.where, "video") for one in asked if one.frames is None}
        folders = {one.video for one in asked if one.frames is not None}
        files = VideoFiles(self.lookup, folder, names).found if names else {}
        pictures = self.lookup.folder if self.frames_folder is None else self.frames_folder
        files |= {name: folder_of_pictures(pictures, folder, name) for name in sorted(folders)}
        questions = tuple(_question(index, one, files[one.video]) for index, one in enumerate(asked))
        return QuestionSet(self.name, folder, hashlib.sha256(content).hexdigest()[:16], questions)

    def further_rules(self) -> dict[str, Any]:
        return {"choices": self.choices}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        accuracy = Metric(ACCURACY, None, right_or_wrong=True)
        if self.mean is None:
            return (accuracy,)
        mean = _mean_by_questions if self.mean == "by questions" else _mean_of_tasks
        return accuracy, Metric(MEAN, None, from_sums=mean, of_all=True)

    @property
    def measuring(self) -> dict[str, Any]:
        return {
            "letters": self.reads,
            "empty": "wrong" if self.counts_empty else "left out",
            "without a letter": f"drawn with seed {self.seed}" if self.guesses else "wrong",
            **({"mean": self.mean} if self.mean else {}),
        }

    def under(self, protocol: Protocol) -> "MultipleChoice":
        reads = "alone" if protocol.by_likelihood else self.reads  # the answer is a letter then
        return replace(self, seed=protocol.generation.seed, reads=reads)

    def measure(self, items: Sequence[Item]) -> Measured:
        kinds = {kind: place for place, kind in enumerate(sorted({item.type for item in items}))}
        official, strict = {}, {}
        for kind, place in kinds.items():
            mine = [item for item in items if item.type == kind]
            official[kind] = self._with_mean(self._official(mine), place, len(kinds))
            strict[kind] = self._with_mean(self._score(mine, strict=True), place, len(kinds))
        return Measured(official, strict)

    def _official(self, items: Sequence[Item]) -> TaskValues[int]:
        """An empty answer that does not count leaves the weight of its question in the mean over the tasks."""
        found = self._score(items, strict=False)
        left_out = {item.index for item in items if item.pred == ""} if not self.counts_empty else set()
        rows = found.metrics[ACCURACY].statistics
        rows[[one in left_out for one in found.ids]] = 0
        unparsed = tuple(one for one in found.unparsed if one not in left_out)
        return replace(found, unparsed=unparsed, excluded=dict.fromkeys(sorted(left_out), _EMPTY))

    def _score(self, items: Sequence[Item], strict: bool) -> TaskValues[int]:
        truths = {item.index: _choice(item.reference) for item in items}
        ids = {item.index: item.id for item in items}
        draws = self.guesses and not strict
        return score_choices(
            {item.index: item.pred for item in items if item.pred is not None},
            truths,
            READERS[self.reads],
            strict=strict,
            guessed=(lambda index: guess(self.seed, ids[index], truths[index].options)) if draws else None,
        )

    def _with_mean(self, values: TaskValues[int], place: int, tasks: int) -> TaskValues[int]:
        """The values of a task, with its part in the mean over the tasks: (right, counted, questions) of each."""
        if self.mean is None:
            return values
        right, counted = values.metrics[ACCURACY].statistics.T
        rows = np.zeros((len(values.ids), 3 * tasks))
        rows[:, 3 * place : 3 * place + 3] = np.stack([right, counted, np.ones_like(counted)], axis=-1)
        mean = MetricValues(right, rows, _mean_of_tasks)
        return replace(values, metrics={**values.metrics, MEAN: mean})


def _mean_by_questions(sums: np.ndarray) -> np.ndarray:
    """Mean of the tasks' shares of right answers, weighed by their questions. Shape: (..., 3 T) -> (...)"""
    right, counted, questions = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)
    shares = np.divide(right, counted, out=np.zeros_like(right), where=counted > 0)
    return (shares * questions).sum(-1) / questions.sum(-1)


def _mean_of_tasks(sums: np.ndarray) -> np.ndarray:
    """Mean of the tasks' shares of right answers, over tasks with one that counts. Shape: (..., 3 T) -> (...)"""
    right, counted, _ = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)
    shares = np.divide(right, counted, out=np.zeros_like(right), where=counted > 0)
    return shares.sum(-1) / (counted > 0).sum(-1)


def _question(index: int, asked: Asked, found: Named) -> Question:
    letter = None if asked.right is None else ascii_uppercase[asked.right]
    impossible = _no_part(asked.start, asked.end)
    found = found if impossible is None else Named(None, None, impossible)
    return Question(
        index=index,
        id=asked.id,
        video=asked.video,
        file=found.file,
        similar=found.similar,
        looked_for=found.looked_for,
        question=asked.question,
        answer=letter or "",
        type=asked.type,
        fields=asked.fields,
        reference={"letter": letter, "options": list(asked.options)},
        options=asked.options,
        start=asked.start,
        end=asked.end,
        fps=asked.frames,
        media=asked.media,
        media_alone=bool(asked.media),
        media_in_text=bool(asked.media),
        problem=None if impossible is None else "its seconds are no part of a video",
    )


def _no_part(start: float | None, end: float | None) -> str | None:
    """Why seconds are no part of a video; None: they may be one."""
    try:
        Part(start, end)
    except ValueError as error:
        return str(error)
    return None


def _choice(reference: Mapping[str, Any]) -> Choice:
    return Choice(reference["letter"], tuple(reference["options"]))


def folder_of_pictures(pictures: str, folder: Path, name: str) -> Named:
    """The folder of pictures that a question names, below the folder ``pictures`` of the test set; "": that itself."""
    path = f"{pictures}/{name}" if pictures else name
    if not stays_below(name):
        raise UserError(f"{folder}: video {name!r} leaves the folder of the test set; use a plain name")
    place = folder / path
    if is_there(place) and place.is_dir() and any(one.suffix.lower() in _PICTURES for one in place.iterdir()):
        return Named(path)
    return Named(None, None, f"not {path}/ with pictures ({', '.join(_PICTURES)})")


def probed(videos: Mapping[str, Path]) -> dict[str, "MediaInfo"]:
    """Metadata of videos by their names, without those that cannot be read: nothing can be asked about them."""
    from vidtune.media.pool import LoadJob, MediaPool

    with MediaPool(1, PROBING_TIMEOUT) as pool:
        found = [result.info for result in pool.load(LoadJob(str(path), None) for path in videos.values())]
    return {name: info for name, info in zip(videos, found, strict=True) if info is not None}


def options_of(path: Path, index: int | str, entry: Any, key: str) -> tuple[str, ...]:
    """The options that an entry of an annotation file lists.

    Raises:
        UserError: there are none, more than letters, or one that is no text; names file, entry and key.
    """
    found = field_of(path, index, entry, key, (list,))
    wrong = [one for one in found if isinstance(one, bool) or not isinstance(one, str | int | float) or _endless(one)]
    if not 1 <= len(found) <= len(ascii_uppercase) or wrong:
        what = f"{wrong[0]!r}, expected text" if wrong else f"{len(found)} options, expected 1 to 26"
        raise UserError(f"{path}: entry {index}: {key!r} holds {what}")
    return tuple(map(str, found))


def _endless(option: str | int | float) -> bool:
    return isinstance(option, float) and not math.isfinite(option)


def place_of(answer: Any, options: Sequence[str]) -> int | None:
    """Place of the first option that is equal to an answer; None: there is none."""
    return next((place for place, option in enumerate(options) if option == str(answer)), None)


def tasks_of(paths: Sequence[Path]) -> tuple[list[list[Any]], bytes]:
    """The questions of every task of a set, each in a file of its own, and the content of all files.

    Raises:
        UserError: see `read_list`; a file is not there, or holds no question.
    """
    tasks, contents = [], []
    note = f"; the set has {len(paths)} such files, all of which are scored" if len(paths) > 1 else ""
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: does not exist{note}")
        entries, content = read_list(path)
        if not entries:
            raise UserError(f"{path}: holds no question{note}")
        tasks.append(entries)
        contents.append(content)
    return tasks, b"\0".join(contents)


def seconds_of(path: Path, index: int, entry: Any, key: str) -> float | None:
    """Seconds that an entry may hold.

    Raises:
        UserError: it is no number; names file, entry and key.
    """
    if not isinstance(entry, dict) or entry.get(key) is None:
        return None
    return float(field_of(path, index, entry, key, (int, float)))
