"""Runs that were asked the same questions, with everything about them that is compared on the page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.own.finding import medium_of_run
from vidtune.evaluation.outcome import Metric, Outcome
from vidtune.evaluation.published import PublishedScore, differs_from, published_beside
from vidtune.evaluation.report.charts import Bars, Curve, by_length, by_type, over_setting, over_steps
from vidtune.evaluation.report.lengths import stated_lengths
from vidtune.evaluation.report.samples import Limits, Samples, samples_of
from vidtune.evaluation.report.shown import Shown
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.comparison import Comparison, StoredRun, common_judge, compare_stored
from vidtune.evaluation.scores.judge_agreement import JudgeAgreement, NothingInCommonError, compare_judges
from vidtune.evaluation.scores.score import METRICS, Score
from vidtune.evaluation.scores.score_file import read_current_score
from vidtune.registry import BENCHMARKS
from vidtune.spelling import by_numbers

LISTED_PROBLEMS = 200


@dataclass(frozen=True)
class RunGroup:
    """Runs that were asked the same questions.

    Args:
        judge: name of the judge whose verdicts are shown, or "metrics".
        runs, labels, main_scores: the runs that this judge has scored, their names on the page and their scores.
        scores: (number of the run or None, label, score) of every run by every judge.
        shown: metric name -> how it is written.
        headline: the metric of the plots; None: question types have no metric in common.
        comparisons: (number of the first run, of the second, their comparison).
        types: question types of ``main_scores``.
        problems: (label, question id, reason) of questions without an answer, or whose answer has no verdict.
        not_compared: (label, reason) of judges that should be compared and cannot be.
        agreements: (label, agreement of the judge with another one that has judged the run).
        published: published scores on the test set, each with what the first run does differently.
    """

    title: str
    judge: str
    runs: tuple[RunFolder, ...]
    labels: tuple[str, ...]
    main_scores: tuple[Score, ...]
    scores: tuple[tuple[int | None, str, Score], ...]
    shown: dict[str, Shown]
    headline: Shown | None
    comparisons: tuple[tuple[int, int, Comparison], ...]
    bars: tuple[Bars, ...]
    curves: tuple[Curve, ...]
    types: tuple[str, ...]
    problems: tuple[tuple[str, str, str], ...]
    not_compared: tuple[tuple[str, str], ...]
    agreements: tuple[tuple[str, JudgeAgreement], ...]
    published: tuple[tuple[PublishedScore, tuple[str, ...]], ...]
    samples: Samples

    @property
    def measured(self) -> bool:
        """Whether metrics scored the runs."""
        return self.judge == METRICS

    @property
    def questions(self) -> int:
        """Number of planned questions of the first run."""
        return self.runs[0].planned

    @property
    def videos(self) -> int:
        """Number of videos of the first run."""
        return len({one.video for one in self.runs[0].plan()})

    @property
    def medium(self) -> str:
        """What the questions are about: "picture" or "video"."""
        return medium_of_run(self.runs[0].info.protocol)

    @property
    def totals(self) -> tuple[str, ...]:
        """Names of the values over all questions; none where question types have metrics of their own."""
        if any(score.overall is None for score in self.main_scores):
            return ()
        names = [value.name for score in self.main_scores if score.overall for value in score.overall.values]
        return tuple(dict.fromkeys(names))


def group_of(runs: Sequence[RunFolder], labels: Sequence[str], judge: str | None, limits: Limits) -> RunGroup:
    """Collects what is shown of runs of one test set.

    Args:
        judge: judge whose verdicts are shown; None: the one that scored most of the runs.

    Raises:
        UserError: answers have come since a run was scored.
    """
    name = runs[0].info.benchmark
    judge = METRICS if METRICS in runs[0].judges() else judge or common_judge(runs)
    judged = [(run, label) for run, label in zip(runs, labels, strict=True) if judge in run.judges()]
    mine, names = [run for run, _ in judged], [label for _, label in judged]
    stored = [StoredRun.read(run, judge) for run in mine]
    outcomes = [one.outcomes for one in stored]
    scores = [read_current_score(run, judge) for run in mine]
    metrics = stored[0].source.metrics
    values = [value.name for score in scores for group in score.parts for value in group.values]
    shown = {name: Shown(name, 1.0, 100.0, 1) for name in values}  # of an earlier version, unless it is a metric of now
    shown |= {metric.name: Shown.of(metric) for one in stored for metric in one.source.metrics}
    main = _headline(scores, metrics)
    bars, curves = _plots(stored, scores, main, shown)
    agreements, not_compared = _agreements(mine, names, judge)
    return RunGroup(
        title=BENCHMARKS[name].title if name in BENCHMARKS else name,
        judge=judge,
        runs=tuple(mine),
        labels=tuple(names),
        main_scores=tuple(scores),
        scores=tuple(_all_scores(runs, labels, judge, dict(zip(names, scores, strict=True)))),
        shown=shown,
        headline=None if main is None else shown[main.name],
        comparisons=tuple(_comparisons(stored)),
        bars=bars,
        curves=curves,
        types=_types(scores),
        problems=tuple(_problems(names, outcomes)),
        not_compared=not_compared,
        agreements=agreements,
        published=tuple(
            (one, tuple(differs_from(one, mine[0], scores[0])))
            for one in published_beside(mine[0])
            if {name.rpartition("/")[2] for name in one.values} & set(shown)
        ),
        samples=samples_of(stored, names, limits),
    )


def _all_scores(
    runs: Sequence[RunFolder], labels: Sequence[str], judge: str, main: dict[str, Score]
) -> Iterator[tuple[int | None, str, Score]]:
    """Yields the scores of every run by every judge; ``main`` are those by ``judge``, by label, in their order."""
    places = {label: place for place, label in enumerate(main)}
    for run, label in zip(runs, labels, strict=True):
        for one in run.judges():
            score = main[label] if one == judge else read_current_score(run, one)
            yield places.get(label), label, score


def _headline(scores: Sequence[Score], metrics: Sequence[Metric]) -> Metric | None:
    """The first metric that all scores have: over all questions, or of every question type."""
    parts = [(score.overall,) if score.overall is not None else score.groups for score in scores]
    common = [{value.name for value in group.values} for groups in parts for group in groups]
    return next((metric for metric in metrics if common and all(metric.name in names for names in common)), None)


def _types(scores: Sequence[Score]) -> tuple[str, ...]:
    """Question types with values: by name where all have the same metrics, otherwise in the order of the scores."""
    types = dict.fromkeys(group.type for score in scores for group in score.groups if group.type is not None)
    return tuple(sorted(types, key=by_numbers) if any(score.overall for score in scores) else types)


def _plots(
    stored: Sequence[StoredRun],
    scores: Sequence[Score],
    main: Metric | None,
    shown: dict[str, Shown],
) -> tuple[tuple[Bars, ...], tuple[Curve, ...]]:
    if main is None:
        return (), ()
    metric = shown[main.name]
    whole = [(one.run, score) for one, score in zip(stored, scores, strict=True) if not is_reduced(one.run)]
    curves = [over_setting(whole, metric), over_steps(whole, metric)]
    found = [by_type(scores, _types(scores), metric)]
    if main.type is None:
        found.append(by_length([one.outcomes for one in stored], stated_lengths(_files(stored)), main, metric))
    return tuple(filter(None, found)), tuple(filter(None, curves))


def _files(stored: Sequence[StoredRun]) -> dict[str, Path]:
    """Video -> its file, of the questions that were asked."""
    folder = Path(stored[0].run.info.data.folder)
    asked = (prediction for one in stored for prediction in one.predictions)
    return {one.video: folder / one.file for one in asked if one.file is not None}


def _comparisons(stored: Sequence[StoredRun]) -> Iterator[tuple[int, int, Comparison]]:
    """Compares every whole run with its own blind run and ablations, and the first run with every other whole one."""
    runs = [one.run for one in stored]
    whole = [place for place, run in enumerate(runs) if not is_reduced(run)]
    pairs = [
        (place, other)
        for place in whole
        for other, run in enumerate(runs)
        if is_reduced(run) and run.info.checkpoint.fingerprint == runs[place].info.checkpoint.fingerprint
    ]
    pairs += [(whole[0], other) for other in whole[1:]]
    for first, second in pairs:
        yield first, second, compare_stored(stored[first], stored[second])


def _agreements(
    runs: Sequence[RunFolder], labels: Sequence[str], judge: str
) -> tuple[tuple[tuple[str, JudgeAgreement], ...], tuple[tuple[str, str], ...]]:
    """Compares the judge with every other one of each run, where both have judged an answer; then what cannot be."""
    found: list[tuple[str, JudgeAgreement]] = []
    problems: list[tuple[str, str]] = []
    for run, label in zip(runs, labels, strict=True):
        for other in run.judges():
            if METRICS not in (judge, other) and other != judge:
                try:
                    found.append((label, compare_judges(run.path, judge, other)))
                except NothingInCommonError:
                    continue
                except UserError as error:
                    problems.append((label, str(error)))
    return tuple(found), tuple(problems)


def is_reduced(run: RunFolder) -> bool:
    """Whether the run is blind or goes without a stream."""
    return run.info.protocol.blind or bool(run.info.protocol.without)


def _problems(labels: Sequence[str], outcomes: Sequence[Sequence[Outcome]]) -> Iterator[tuple[str, str, str]]:
    for label, found in zip(labels, outcomes, strict=True):
        for entry in (outcome.entry for outcome in found):
            if entry.reason is not None:
                yield label, entry.id, f"{entry.video}: {entry.reason}{f': {entry.detail}' if entry.detail else ''}"
