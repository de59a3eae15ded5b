"""Paired comparison of runs of one benchmark, question by question."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from vidtune.errors import UserError
from vidtune.evaluation.bootstrap import DRAWS, Bootstrap, holm, paired_bootstrap
from vidtune.evaluation.judges.base import DEFAULT_JUDGE
from vidtune.evaluation.outcome import Metric, Outcome, ScoreSource, rows_of
from vidtune.evaluation.question import Prediction
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.manifest import FieldDifference, manifest_differences
from vidtune.evaluation.scores.changed import ChangedQuestion, changed_questions
from vidtune.evaluation.scores.score import METRICS
from vidtune.evaluation.scores.scoring import source_for
from vidtune.evaluation.statistics import LEVEL, METHOD, Estimate
from vidtune.registry import BENCHMARKS
from vidtune.spelling import by_numbers

Pair = tuple[Outcome, Outcome]


class ValueDifference(BaseModel):
    """One value of the first run minus that of the second; None where one of them has none.

    Args:
        type: question type; None: all questions.
        official: over the questions that are in the official value of both runs.
        strict: over all common questions; whatever is missing, failed or unjudged counts as wrong, or as an empty
            answer.
        values: the official values of both runs, over the questions that are in both.
        bootstrap: of the official difference; None: none was asked for, or there are too few videos.
    """

    model_config = ConfigDict(frozen=True)

    type: str | None
    name: str
    official: Estimate | None
    strict: Estimate | None
    values: tuple[float, float] | None = None
    bootstrap: Bootstrap | None = None


class Agreement(BaseModel):
    """Numbers of questions that are right in both runs, in one of them, or in none."""

    model_config = ConfigDict(frozen=True)

    both_right: int
    only_first: int
    only_second: int
    both_wrong: int


class Comparison(BaseModel):
    """First run minus second run, over the questions that both were asked.

    Args:
        judge: name of the judge, or "metrics".
        differs_in: rules in which the two protocols differ; the difference of scores is then also theirs.
        manifest: every field in which the two manifests differ, those that change answers most directly first.
        questions: number of questions that both runs hold.
        scored: number of them that are answered, and judged, in both.
        videos: number of videos that these are about.
        agreement: over the questions that are right or wrong in both runs; None where answers are not just that.
        differences: one per value, over all questions and per question type.
        changed: the questions with another answer or another verdict, verdicts first.
        fragile: of each run, the number of answers that rounding alone can change, and of those where that is known.
    """

    model_config = ConfigDict(frozen=True)

    benchmark: str
    first: str
    second: str
    judge: str
    differs_in: tuple[str, ...]
    questions: int
    scored: int
    videos: int
    agreement: Agreement | None
    differences: tuple[ValueDifference, ...]
    manifest: tuple[FieldDifference, ...] = ()
    changed: tuple[ChangedQuestion, ...] = ()
    fragile: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    intervals: str = f"{LEVEL:.0%}, {METHOD}, questions paired"

    def difference(self, name: str, type: str | None = None) -> ValueDifference:
        """The difference in one value.

        Raises:
            KeyError: there is no such value.
        """
        found = next((one for one in self.differences if (one.type, one.name) == (type, name)), None)
        if found is None:
            raise KeyError(f"no difference in {name!r} of {type or 'all questions'}")
        return found


@dataclass(frozen=True)
class StoredRun:
    """A run with all that is stored of it: large files that are read once."""

    run: RunFolder
    source: ScoreSource
    outcomes: Sequence[Outcome]
    predictions: Sequence[Prediction]

    @classmethod
    def read(cls, run: RunFolder, judge: str) -> "StoredRun":
        """Read the answers of a run and their outcomes by a judge, or by metrics."""
        source = source_for(run, judge)
        return cls(run, source, source.stored(), run.predictions())


def compare_runs(
    first: Path, second: Path, judge: str = DEFAULT_JUDGE, draws: int = 0, limit: int | None = None
) -> Comparison:
    """Compare two runs that the same judge has judged, or that metrics have scored.

    Args:
        draws: number of draws of the bootstrap; 0: none.
        limit: number of questions from the start of the test set that are compared; None: all.

    Raises:
        UserError: different benchmarks or test sets, a run that is not scored, or no common question.
    """
    one, two = RunFolder(first), RunFolder(second)
    _require_same_questions(one, two)
    a, b = (StoredRun.read(run, judge) for run in (one, two))
    if limit is not None:
        a, b = (replace(run, outcomes=[one for one in run.outcomes if one.index < limit]) for run in (a, b))
    return compare_stored(a, b, draws)


def compare_stored(first: StoredRun, second: StoredRun, draws: int = 0) -> Comparison:
    """Compare two runs as `compare_runs` does, of which all is read already; they were asked the same questions."""
    one, two, source = first.run, second.run, first.source
    pairs = _paired(first.outcomes, second.outcomes)
    answers = [{prediction.index: prediction for prediction in stored.predictions} for stored in (first, second)]
    if not pairs:
        raise UserError(f"{one.path} and {two.path} have no question in common")
    scored = [pair for pair in pairs if all(outcome.entry.counted for outcome in pair)]
    return Comparison(
        benchmark=one.info.benchmark,
        first=str(one.path),
        second=str(two.path),
        judge=source.name,
        differs_in=_differences(one, two),
        questions=len(pairs),
        scored=len(scored),
        videos=len({pair[0].video for pair in scored}),
        agreement=_agreement(source.metrics, pairs),
        differences=tuple(
            value_difference(metric, kind, pairs, draws)
            for metric, kind in compared_values(source.metrics, [one for one, _ in pairs])
        ),
        manifest=manifest_differences(one.info, two.info),
        changed=changed_questions(source.metrics, pairs, *answers),
        fragile=(_fragile(pairs, 0), _fragile(pairs, 1)),
    )


def compare_with_first(runs: Sequence[Path], judge: str | None = None, draws: int = DRAWS) -> list[Comparison]:
    """Compare the first run with every other one.

    The p values of each number are corrected for the number of comparisons.

    Args:
        judge: None: the one that has scored most of the runs.

    Raises:
        UserError: less than two runs, a run twice, or see `compare_runs`.
    """
    if len(runs) < 2:
        raise UserError("a comparison needs two or more run folders")
    folders = [RunFolder(path) for path in runs]
    if double := [path for path, count in Counter(run.path.resolve() for run in folders).items() if count > 1]:
        raise UserError(f"{double[0]}: given twice; name each run once")
    judge = judge_of(folders[0], folders, judge)
    found = [compare_runs(runs[0], other, judge, draws) for other in runs[1:]]
    return _corrected(found)


def _corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with p values of each number that are corrected for the number of comparisons."""
    values: dict[tuple[str | None, str], list[float]] = {}
    for comparison in comparisons:
        for one in comparison.differences:
            if one.bootstrap is not None:
                values.setdefault((one.type, one.name), []).append(one.bootstrap.p)
    corrected = {key: iter(holm(found)) for key, found in values.items()}

    def with_p(one: ValueDifference) -> ValueDifference:
        if one.bootstrap is None:
            return one
        return one.model_copy(update={"bootstrap": replace(one.bootstrap, p=next(corrected[(one.type, one.name)]))})

    return [one.model_copy(update={"differences": tuple(map(with_p, one.differences))}) for one in comparisons]


def judge_of(run: RunFolder, runs: Sequence[RunFolder], judge: str | None = None) -> str:
    """Name of what scores a run that is shown together with others: metrics, or the judge that is common to them.

    Args:
        judge: name of the judge; None: `common_judge`.
    """
    if METRICS in run.judges() and judge not in run.judges():
        return METRICS
    return judge or common_judge([one for one in runs if METRICS not in one.judges()])


def common_judge(runs: Sequence[RunFolder]) -> str:
    """Name of the judge that scored most of the runs; of several, one that is not a set of rules, then by name."""
    names = [name for run in runs for name in run.judges()]
    if not names:
        raise UserError(f"{runs[0].path}: not scored by any judge; judge the run first")
    return min(set(names), key=lambda name: (-names.count(name), name.startswith("rules-"), name))


def test_set_of(run: RunFolder) -> str:
    """Name of the test set that a run was asked; other rules ask the same questions under another name."""
    return test_set_behind(run.info.benchmark)


def test_set_behind(benchmark: str) -> str:
    """Name of the test set whose questions a benchmark asks; that of the benchmark where it is no other record."""
    return BENCHMARKS[benchmark].record_of or benchmark if benchmark in BENCHMARKS else benchmark


def _require_same_questions(one: RunFolder, two: RunFolder) -> None:
    if test_set_of(one) != test_set_of(two):
        raise UserError(
            f"{one.path} is {one.info.benchmark}, {two.path} is {two.info.benchmark}; compare runs of one benchmark"
        )
    if one.info.data.fingerprint != two.info.data.fingerprint:
        raise UserError(
            f"{one.path} and {two.path} were asked different versions of {one.info.benchmark}; they cannot be paired"
        )


def _paired(first: Sequence[Outcome], second: Sequence[Outcome]) -> list[Pair]:
    others = {outcome.index: outcome for outcome in second}
    return [(outcome, others[outcome.index]) for outcome in first if outcome.index in others]


def compared_values(metrics: Sequence[Metric], outcomes: Sequence[Outcome]) -> list[tuple[Metric, str | None]]:
    """(metric, question type): every metric over the questions it is defined on, then the common ones per type."""
    there = {outcome.type for outcome in outcomes if outcome.type is not None}
    own = [(metric, metric.type) for metric in metrics if metric.type is None or metric.type in there]
    common = [metric for metric in metrics if metric.type is None and not metric.of_all]
    return [*own, *((metric, kind) for kind in sorted(there, key=by_numbers) for metric in common)]


def value_difference(metric: Metric, kind: str | None, pairs: Sequence[Pair], draws: int) -> ValueDifference:
    """One value of the first minus that of the second of each pair, over the pairs of a question type."""
    mine = [pair for pair in pairs if kind in (None, pair[0].type)]
    official, strict = (_rows(metric, mine, strict) for strict in (False, True))
    return ValueDifference(
        type=kind,
        name=metric.name,
        official=official and metric.difference(*official),
        strict=strict and metric.difference(*strict),
        values=official and (_value(metric, official[0]), _value(metric, official[1])),
        bootstrap=_bootstrap(metric, official, draws) if official and draws else None,
    )


def _rows(metric: Metric, pairs: Sequence[Pair], strict: bool) -> tuple[np.ndarray, np.ndarray, list[str]] | None:
    """The sums of both runs, and the videos, of the questions that are in both. Shape: (Q, S), (Q, S), (Q,)"""
    both = [pair for pair in pairs if all(metric.name in outcome.sums(strict) for outcome in pair)]
    (first, videos), (second, _) = (rows_of([pair[side] for pair in both], metric, strict) for side in (0, 1))
    return (first, second, videos) if videos else None


def _value(metric: Metric, rows: np.ndarray) -> float:
    return metric.scale * float(metric.from_sums(rows.sum(axis=0)))


def _bootstrap(metric: Metric, rows: tuple[np.ndarray, np.ndarray, list[str]], draws: int) -> Bootstrap | None:
    first, second, videos = rows
    found = paired_bootstrap(first, second, metric.from_sums, videos, draws)
    return found and replace(found, low=metric.scale * found.low, high=metric.scale * found.high)


def _fragile(pairs: Sequence[Pair], side: int) -> tuple[int, int]:
    known = [pair[side].entry.fragile for pair in pairs if pair[side].entry.fragile is not None]
    return known.count(True), len(known)


def _agreement(metrics: Sequence[Metric], pairs: Sequence[Pair]) -> Agreement | None:
    metric = next((metric for metric in metrics if metric.right_or_wrong), None)
    if metric is None:
        return None
    both = [[outcome.official.get(metric.name, (0, 0)) for outcome in pair] for pair in pairs]
    said = [(first[0] > 0, second[0] > 0) for first, second in both if first[1] and second[1]]
    return Agreement(
        both_right=said.count((True, True)),
        only_first=said.count((True, False)),
        only_second=said.count((False, True)),
        both_wrong=said.count((False, False)),
    )


def _differences(one: RunFolder, two: RunFolder) -> tuple[str, ...]:
    first, second = (run.info.protocol.model_dump(mode="json") for run in (one, two))
    return tuple(key for key in {**first, **second} if first.get(key) != second.get(key))
