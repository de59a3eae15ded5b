"""One self-contained HTML page about evaluation runs: scores with intervals, comparisons, and samples to look at.

The page needs no network and loads nothing; every text from outside is escaped.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from vidtune import __version__
from vidtune.errors import MediaError, UserError
from vidtune.evaluation.outcome import Outcome
from vidtune.evaluation.question import Prediction
from vidtune.evaluation.report.curve import Curve, curve_of
from vidtune.evaluation.report.frame_strip import frame_strip
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.comparison import Comparison, compare_runs, test_set_of
from vidtune.evaluation.scores.score import METRICS, Score
from vidtune.evaluation.scores.score_file import read_current_score
from vidtune.evaluation.scores.score_lines import answers_text, counts_text
from vidtune.evaluation.scores.scoring import source_for
from vidtune.machine.files import write_text_atomically
from vidtune.registry import BENCHMARKS

TEMPLATE = "report.html"


@dataclass(frozen=True)
class Reply:
    """Answer of one run to a question.

    Args:
        verdict: right, wrong, unclear (the judge said neither), unjudged, error, or absent; judged where the judge was
            asked for points alone, measured where metrics take the place of a judge.
        score: score by the judge, 0 to 5.
        error: why the question could not be asked.
        values: metric -> its value for this answer, in percent.
    """

    pred: str
    verdict: str
    score: int | None = None
    error: str | None = None
    values: Mapping[str, float] = field(default_factory=dict)


ABSENT = Reply("", "absent")


@dataclass(frozen=True)
class SampleQuestion:
    """A question with the replies of all runs of its group, in the order of the runs."""

    id: str
    question: str
    answer: str
    type: str | None
    replies: tuple[Reply, ...]


@dataclass(frozen=True)
class SampleVideo:
    """A video with its questions.

    Args:
        strip: frames as a data address; None: they cannot be shown, for the reason in ``note``.
    """

    name: str
    strip: str | None
    note: str | None
    questions: tuple[SampleQuestion, ...]


@dataclass(frozen=True)
class RunGroup:
    """Runs that were asked the same questions, with everything that is compared.

    Args:
        judge: name of the judge whose verdicts are shown, or "metrics".
        measured: metrics scored the runs, or question types have values of their own.
        runs, labels, main_scores: the runs that this judge has scored, their names on the page and their scores.
        scores: (label, score) of every run by every judge.
        curve: accuracy over a number of the protocol; None: the runs are not such.
        types: question types of ``main_scores``.
    """

    title: str
    judge: str
    measured: bool
    runs: tuple[RunFolder, ...]
    labels: tuple[str, ...]
    scores: tuple[tuple[str, Score], ...]
    main_scores: tuple[Score, ...]
    comparisons: tuple[tuple[str, str, Comparison], ...]
    curve: Curve | None
    types: tuple[str, ...]
    problems: tuple[tuple[str, str, str], ...]
    videos: tuple[SampleVideo, ...]
    total_questions: int

    @property
    def shown_questions(self) -> int:
        return sum(len(video.questions) for video in self.videos)


def build_report(
    runs: Sequence[Path],
    out: Path,
    *,
    judge: str | None = None,
    title: str = "Evaluation report",
    max_samples: int = 240,
    frames: int = 4,
) -> Path:
    """Write the page.

    Args:
        runs: folders of scored runs; those of one test set are shown together.
        out: HTML file to write.
        judge: judge whose verdicts the samples and comparisons show; None: the one that scored most of the runs.
        max_samples: number of questions shown per test set, from whole videos; the scores count every question.
        frames: number of frames shown per video.

    Returns:
        ``out``.

    Raises:
        UserError: no run is given, or one is not scored or has got answers since.
    """
    from jinja2 import Environment, StrictUndefined

    if not runs:
        raise UserError("a report needs at least one run folder")
    folders = [RunFolder(path) for path in runs]
    for run in folders:
        wanted = METRICS if METRICS in run.judges() else judge
        if not run.judges() or (wanted is not None and wanted not in run.judges()):
            raise UserError(f"{run.path}: not scored by {wanted or 'any judge'}; judge the run first")
    labels = _labels([run.path for run in folders])
    grouped: dict[tuple[str, str], list[int]] = {}
    for number, run in enumerate(folders):
        grouped.setdefault((test_set_of(run), run.info.data.fingerprint), []).append(number)
    groups = [
        _group([folders[n] for n in numbers], [labels[n] for n in numbers], judge, max_samples, frames)
        for numbers in grouped.values()
    ]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.globals.update(
        percent=_percent,
        points=_points,
        number=_number,
        plain=_plain,
        signed=_signed,
        counts=counts_text,
        among=answers_text,
    )
    source = resources.files("vidtune.evaluation.report").joinpath("templates", TEMPLATE).read_text(encoding="utf-8")
    page = environment.from_string(source).render(title=title, groups=groups, version=__version__)
    write_text_atomically(Path(out), page)
    return Path(out)


def _group(
    runs: Sequence[RunFolder], labels: Sequence[str], judge: str | None, max_samples: int, frames: int
) -> RunGroup:
    name = runs[0].info.benchmark
    measured = METRICS in runs[0].judges()
    judge = METRICS if measured else judge or _common_judge(runs)
    judged = [(run, label) for run, label in zip(runs, labels, strict=True) if judge in run.judges()]
    main_scores = tuple(read_current_score(run, judge) for run, _ in judged)
    asked = {prediction.index: prediction for run, _ in judged for prediction in run.predictions()}
    return RunGroup(
        title=BENCHMARKS[name].title if name in BENCHMARKS else name,
        judge=judge,
        measured=any(score.measured or score.overall is None for score in main_scores),
        runs=tuple(run for run, _ in judged),
        labels=tuple(label for _, label in judged),
        scores=tuple(
            (label, read_current_score(run, one))
            for run, label in zip(runs, labels, strict=True)
            for one in run.judges()
        ),
        main_scores=main_scores,
        comparisons=tuple(_comparisons(judged, judge)),
        curve=_curve([run for run, _ in judged], main_scores),
        types=_types(main_scores),
        problems=tuple(_problems(judged, judge)),
        videos=tuple(_samples(judged[0][0], asked, [_replies(run, judge) for run, _ in judged], max_samples, frames)),
        total_questions=len(asked),
    )


def _types(scores: Sequence[Score]) -> tuple[str, ...]:
    """Question types with values: by name where all have the same metrics, otherwise in the order of the scores."""
    types = dict.fromkeys(group.type for score in scores for group in score.groups if group.type is not None)
    return tuple(sorted(types) if any(score.overall for score in scores) else types)


def _common_judge(runs: Sequence[RunFolder]) -> str:
    """Name of the judge that scored most of the runs; of several, one that is not a set of rules, then by name."""
    names = [name for run in runs for name in run.judges()]
    return min(set(names), key=lambda name: (-names.count(name), name.startswith("rules-"), name))


def _comparisons(judged: Sequence[tuple[RunFolder, str]], judge: str) -> Iterable[tuple[str, str, Comparison]]:
    """Compares every whole run with its own blind run and ablations, and the first run with every other whole one."""
    whole = [entry for entry in judged if not _is_reduced(entry[0])]
    for run, label in whole:
        for other, other_label in judged:
            if _is_reduced(other) and other.info.checkpoint.fingerprint == run.info.checkpoint.fingerprint:
                yield label, other_label, compare_runs(run.path, other.path, judge)
    for run, label in whole[1:]:
        yield whole[0][1], label, compare_runs(whole[0][0].path, run.path, judge)


def _curve(runs: Sequence[RunFolder], scores: Sequence[Score]) -> Curve | None:
    """The whole runs of one checkpoint over the number in which their protocols differ."""
    whole = [(run, score) for run, score in zip(runs, scores, strict=True) if not _is_reduced(run)]
    if len({run.info.checkpoint.fingerprint for run, _ in whole}) > 1 or any(not score.overall for _, score in whole):
        return None
    return curve_of([(run.info.protocol, score) for run, score in whole])


def _is_reduced(run: RunFolder) -> bool:
    """Whether the run is blind or goes without a stream."""
    return run.info.protocol.blind or bool(run.info.protocol.without)


def _problems(judged: Sequence[tuple[RunFolder, str]], judge: str) -> Iterable[tuple[str, str, str]]:
    """Yields (run, question id, reason) of every question without an answer, or whose answer has no verdict."""
    for run, label in judged:
        for outcome in source_for(run, judge).stored():
            entry = outcome.entry
            if entry.reason is not None:
                yield label, entry.id, f"{entry.video}: {entry.reason}{f': {entry.detail}' if entry.detail else ''}"


def _samples(
    run: RunFolder,
    asked: dict[int, Prediction],
    replies: Sequence[Mapping[int, Reply]],
    max_samples: int,
    frames: int,
) -> Iterable[SampleVideo]:
    """Yields whole videos, drawn by the hash of their name until there are enough questions; in test-set order."""
    by_video: dict[str, list[Prediction]] = {}
    for index in sorted(asked):
        by_video.setdefault(asked[index].video, []).append(asked[index])
    chosen, count = set(), 0
    for video in sorted(by_video, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if count < max_samples:
            chosen.add(video)
            count += len(by_video[video])
    for video, questions in by_video.items():
        if video not in chosen:
            continue
        strip, note = _strip(Path(run.info.data.folder), questions[0].file, frames)
        yield SampleVideo(
            name=video,
            strip=strip,
            note=note,
            questions=tuple(
                SampleQuestion(
                    id=question.id,
                    question=question.question,
                    answer=str(question.answer),
                    type=question.type,
                    replies=tuple(listed.get(question.index, ABSENT) for listed in replies),
                )
                for question in questions
            ),
        )


def _replies(run: RunFolder, judge: str) -> dict[int, Reply]:
    """Replies of a run with the verdict or the values of each, by question index."""
    outcomes = {outcome.index: outcome for outcome in source_for(run, judge).stored()}
    return {one.index: _reply(one, outcomes.get(one.index)) for one in run.predictions()}


def _reply(prediction: Prediction, outcome: Outcome | None) -> Reply:
    if prediction.error is not None:
        return Reply("", "error", error=prediction.error)
    if outcome is None or outcome.verdict is None:
        return Reply(prediction.pred, "unjudged")
    return Reply(prediction.pred, outcome.verdict, outcome.points, values=outcome.values)


def _strip(folder: Path, file: str | None, frames: int) -> tuple[str | None, str | None]:
    if file is None:
        return None, "no video file"
    if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
        return None, "no video"
    if not (folder / file).exists():
        return None, f"{folder / file} is no longer there"
    try:
        return frame_strip(folder / file, frames), None
    except MediaError as error:
        return None, error.reason


def _labels(paths: Sequence[Path]) -> list[str]:
    """Names of runs: for each path the shortest end that no other path has."""
    parts = [path.resolve().parts for path in paths]
    labels = []
    for own in parts:
        length = next((n for n in range(1, len(own) + 1) if sum(p[-n:] == own[-n:] for p in parts) == 1), len(own))
        labels.append("/".join(own[-length:]))
    return labels


def _percent(value: Any) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _points(value: Any) -> str:
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def _plain(value: Any) -> str:
    return "–" if value is None else f"{value:.1f}"


def _signed(value: Any) -> str:
    return "–" if value is None else f"{value:+.1f}".replace("-", "−")


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.2f}"
