"""Test sets as a user meets them: what one needs, which files are there, what is odd in questions and answers."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.benchmarks.downloads.pictures import PICTURE_SETS
from vidtune.evaluation.benchmarks.downloads.records import Facts
from vidtune.evaluation.benchmarks.downloads.videos import VIDEO_SETS
from vidtune.evaluation.benchmarks.measured import MeasuredBenchmark
from vidtune.evaluation.question import Question, QuestionSet

SHOWN = 5
# Texts that stand for media in prompts: a question that holds one is read as another prompt.
_TAG = re.compile(r"<(?:image|video|vid_start|vid_end|im_start|im_end|audio)>")
_LONGEST_ANSWER = 300


@dataclass(frozen=True)
class Odd:
    """Something odd in one question: its id, its video, what is odd."""

    id: str
    video: str
    what: str


@dataclass(frozen=True)
class TestSetCheck:
    """What a test set holds.

    Args:
        questions, videos: numbers of questions, and of different videos; for videos read pictures where ``medium`` says
            so.
        found: extension, or "folder" -> number of videos that are there under the name that the protocol gives them.
        similar: video -> file with a similar name, which is asked about; the published scripts leave it out.
        features: stream -> number of videos with stored features.
        no_content: files of 0 bytes that are asked about.
        missing: video -> where it was looked for, and which file is near.
        usable: number of questions whose video is there.
        repeated_ids: id -> number of questions with it; published scripts judge an id once.
        odd: odd ids, questions, answers and times.
        lacking: further files of the test set that are not there, by what they are.
    """

    __test__ = False  # not a test, in spite of its name

    benchmark: str
    folder: str
    questions: int
    videos: int
    found: Mapping[str, int]
    similar: Mapping[str, str]
    missing: Mapping[str, str]
    usable: int
    repeated_ids: Mapping[str, int]
    odd: Sequence[Odd] = field(default_factory=tuple)
    features: Mapping[str, int] = field(default_factory=dict)
    no_content: Sequence[str] = ()
    medium: str = "videos"
    lacking: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def json(self) -> str:
        """Returns the whole check as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    def lines(self) -> Iterator[str]:
        """Yield the check as text, with a few examples of each kind."""
        yield f"{self.benchmark}: {self.questions} questions about {self.videos} {self.medium}, {self.folder}"
        kinds = ", ".join(f"{count} {extension}" for extension, count in self.found.items())
        yield f"  {sum(self.found.values())} {self.medium} found{f' ({kinds})' if kinds else ''}"
        for stream, count in self.features.items():
            yield f"  {count} videos with stored features of {stream}; the checkpoint decides which streams it reads"
        yield from _listed("found under a similar name", [f"{name}: {file}" for name, file in self.similar.items()])
        yield from _listed("files of 0 bytes, which cannot be read", self.no_content)
        yield from _listed("without a file", [f"{name}: {where}" for name, where in self.missing.items()])
        for what, names in self.lacking.items():
            yield from _listed(what, names)
        repeated = [f"{name} ({count} times)" for name, count in self.repeated_ids.items()]
        yield from _listed("repeated ids", repeated)
        kinds_of_odd: dict[str, list[str]] = {}
        for one in self.odd:
            kinds_of_odd.setdefault(one.what, []).append(one.id)
        for what, ids in kinds_of_odd.items():
            yield from _listed(what, [repr(name) for name in ids])
        yield f"  {self.usable} of {self.questions} questions can be asked"


def check_test_set(benchmark: Benchmark, data: Path, features: Mapping[str, Path]) -> TestSetCheck:
    """Read a test set and look for everything that its questions name; opens no video.

    Args:
        data: folder of the test set, or one above it.
        features: stream -> folder of stored features that are read instead of videos; if there are any, that stream
            must have some that reads the videos.

    Raises:
        UserError: the test set cannot be read (names file and entry), or a folder of features holds none of its
            videos.
    """
    loaded = benchmark.load(data)
    asked = loaded.with_similar_files()
    if features:
        asked = benchmark.with_features(asked, features, benchmark.stream)
    counts = {name: _with_features(benchmark, loaded, name, folder) for name, folder in features.items()}
    about = [question for question in asked.questions if not question.text_alone]
    there = {question.video: question for question in about if not question.missing}
    videos = {question.video: question for question in about} | there
    exact = {question.video: question.file for question in loaded.questions}
    found = Counter(_extension(one, exact[name]) for name, one in there.items() if exact[name] or one.features)
    read = [path for one in there.values() for path in _paths(asked.folder, one)]
    ids = Counter(question.id for question in asked.questions)
    return TestSetCheck(
        benchmark=benchmark.name,
        folder=str(asked.folder),
        questions=len(asked.questions),
        videos=len(videos),
        found=dict(found.most_common()),
        similar={name: str(one.file) for name, one in there.items() if not exact[name] and not one.features},
        missing={name: one.looked_for or "" for name, one in videos.items() if one.missing},
        usable=sum(not question.missing for question in asked.questions),
        repeated_ids={name: count for name, count in ids.items() if count > 1},
        odd=[Odd(one.id, one.video, what) for one in asked.questions for what in _oddities(one)],
        features=counts,
        no_content=[str(path) for path in dict.fromkeys(read) if path.is_file() and path.stat().st_size == 0],
        medium=f"{benchmark.medium}s",
        lacking={what: names for what, names in benchmark.lacking(loaded).items() if names},
    )


def state_of_test_set(benchmark: Benchmark, data: Path) -> str:
    """Returns in a few words whether a test set is there, or the first thing that is missing."""
    try:
        found = check_test_set(benchmark, data, {})
    except UserError as error:
        return f"not ready: {error}"
    missing = f", {len(found.missing)} without a file" if found.missing else ""
    return f"{'ready' if not missing else 'not whole'}: {found.usable} of {found.questions} questions{missing}"


def _with_features(benchmark: Benchmark, questions: QuestionSet, stream: str, folder: Path) -> int:
    """Number of videos that have features of a stream. Raises UserError if none has."""
    asked = benchmark.with_features(questions, {stream: folder}, stream).questions
    if not (count := len({question.video for question in asked if question.features})):
        raise UserError(f"--features {stream}={folder}: no feature file there is named after a video of the test set")
    return count


def _paths(folder: Path, question: Question) -> list[Path]:
    """The files that are read for a question."""
    if question.features:
        return [Path(path) for _, path in question.features]
    return [folder / question.file] if question.file is not None else []


def _extension(question: Question, exact: str | None) -> str:
    path = question.features[0][1] if question.features else str(exact)
    return PurePosixPath(path).suffix or "folder"


def _oddities(question: Question) -> Iterator[str]:
    """What is odd in a question, in words that are the same for all such questions."""
    written = question.id.removeprefix(f"{question.type}/")  # ids of test sets in parts begin with the part
    if not written.strip():
        yield "empty ids"
    elif written != written.strip() or ("/" in written and question.reference is None):
        yield "ids with blanks at an end, or '/'"
    if not question.question.strip() and (question.reference is None or question.options):
        yield "empty questions"
    if len({option.strip() for option in question.options} - {""}) < len(question.options):
        yield "options that are empty or stand twice"
    if not _is_part(question.start, question.end):
        yield "times that are no part of a video: start below 0, or end not behind it"
    if _TAG.search(question.question):
        yield "questions that contain a media tag"
    answer = question.answer
    if question.options and not answer:
        yield "answers that are none of the options"
    elif not str(answer).strip():
        yield "empty answers"
    elif question.reference is None and not question.judge_texts and len(str(answer)) > _LONGEST_ANSWER:
        yield f"answers of more than {_LONGEST_ANSWER} characters"


def _is_part(start: float | None, end: float | None) -> bool:
    first = 0.0 if start is None else start
    return math.isfinite(first) and first >= 0 and (end is None or (math.isfinite(end) and end > first))


def _listed(what: str, examples: Sequence[str]) -> Iterator[str]:
    """Yield the number of cases, and the first of them below it."""
    if examples:
        yield f"  {len(examples)} {what}"
        yield from (f"    {example}" for example in examples[:SHOWN])
        if len(examples) > SHOWN:
            yield "    ..."


@dataclass(frozen=True)
class Listed:
    """One benchmark as it is listed.

    Args:
        facts: None for one of another package that tells none.
        same_as: name of the benchmark that it shares its test set with; "": its own.
    """

    name: str
    title: str
    source: str
    scored_by: str
    facts: Facts | None
    same_as: str

    def lines(self) -> Iterator[str]:
        """Yields where the questions and the numbers come from, and what must be downloaded."""
        yield f"  source  {self.source}"
        if self.facts is not None and self.facts.counted:
            yield f"  counted {self.facts.counted}"
        if self.same_as:
            yield f"  get     the files of {self.same_as}"
            return
        for one in () if self.facts is None else self.facts.downloads:
            yield f"  {one}"


def facts_of(benchmark: Benchmark) -> Facts | None:
    """Returns what is known of a benchmark's test set; None: nothing."""
    known = {**VIDEO_SETS, **PICTURE_SETS}
    return benchmark.facts or known.get(benchmark.name) or known.get(benchmark.record_of)


def listed(benchmark: Benchmark) -> Listed:
    """Returns a benchmark as it is listed."""
    measured = isinstance(benchmark, MeasuredBenchmark)
    facts = facts_of(benchmark)
    by = "a server" if facts is not None and facts.answers_hidden else "metrics" if measured else "a judge"
    own = benchmark.facts is not None or benchmark.name in {**VIDEO_SETS, **PICTURE_SETS}
    return Listed(benchmark.name, benchmark.title, benchmark.source, by, facts, "" if own else benchmark.record_of)
