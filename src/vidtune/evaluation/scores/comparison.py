"""Paired comparison of two runs of one benchmark, question by question."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from vidtune.errors import UserError
from vidtune.evaluation.judges.base import DEFAULT_JUDGE
from vidtune.evaluation.outcome import Metric, Outcome, ScoreSource, rows_of
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.scoring import source_for
from vidtune.evaluation.statistics import LEVEL, METHOD, Estimate
from vidtune.registry import BENCHMARKS

Pair = tuple[Outcome, Outcome]


class ValueDifference(BaseModel):
    """One value of the first run minus that of the second; None where one of them has none.

    Args:
        type: question type; None: all questions.
        official: over the questions that are in the official value of both runs.
        strict: over all common questions; whatever is missing, failed or unjudged counts as wrong, or as an empty
            answer.
    """

    model_config = ConfigDict(frozen=True)

    type: str | None
    name: str
    official: Estimate | None
    strict: Estimate | None


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
        questions: number of questions that both runs hold.
        scored: number of them that are answered, and judged, in both.
        agreement: over the questions that are right or wrong in both runs; None where answers are not just that.
        differences: one per value, over all questions and per question type.
    """

    model_config = ConfigDict(frozen=True)

    benchmark: str
    first: str
    second: str
    judge: str
    differs_in: tuple[str, ...]
    questions: int
    scored: int
    agreement: Agreement | None
    differences: tuple[ValueDifference, ...]
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


def compare_runs(first: Path, second: Path, judge: str = DEFAULT_JUDGE) -> Comparison:
    """Compare two runs that the same judge has judged, or that metrics have scored.

    Raises:
        UserError: different benchmarks or test sets, a run that is not scored, or no common question.
    """
    one, two = RunFolder(first), RunFolder(second)
    _require_same_questions(one, two)
    source = source_for(one, judge)
    pairs = _paired(source, source_for(two, judge))
    if not pairs:
        raise UserError(f"{first} and {second} have no question in common")
    return Comparison(
        benchmark=one.info.benchmark,
        first=str(one.path),
        second=str(two.path),
        judge=source.name,
        differs_in=_differences(one, two),
        questions=len(pairs),
        scored=sum(all(outcome.entry.counted for outcome in pair) for pair in pairs),
        agreement=_agreement(source.metrics, pairs),
        differences=tuple(
            _difference(metric, kind, pairs) for metric, kind in _compared(source.metrics, [one for one, _ in pairs])
        ),
    )


def test_set_of(run: RunFolder) -> str:
    """Name of the test set that a run was asked; other rules ask the same questions under another name."""
    name = run.info.benchmark
    return BENCHMARKS[name].record_of or name if name in BENCHMARKS else name


def _require_same_questions(one: RunFolder, two: RunFolder) -> None:
    if test_set_of(one) != test_set_of(two):
        raise UserError(
            f"{one.path} is {one.info.benchmark}, {two.path} is {two.info.benchmark}; compare runs of one benchmark"
        )
    if one.info.data.fingerprint != two.info.data.fingerprint:
        raise UserError(
            f"{one.path} and {two.path} were asked different versions of {one.info.benchmark}; they cannot be paired"
        )


def _paired(one: ScoreSource, two: ScoreSource) -> list[Pair]:
    first, second = one.stored(), {outcome.index: outcome for outcome in two.stored()}
    return [(outcome, second[outcome.index]) for outcome in first if outcome.index in second]


def _compared(metrics: Sequence[Metric], outcomes: Sequence[Outcome]) -> list[tuple[Metric, str | None]]:
    """(metric, question type): every metric over the questions it is defined on, then the common ones per type."""
    there = {outcome.type for outcome in outcomes if outcome.type is not None}
    own = [(metric, metric.type) for metric in metrics if metric.type is None or metric.type in there]
    common = [metric for metric in metrics if metric.type is None and not metric.of_all]
    return [*own, *((metric, kind) for kind in sorted(there) for metric in common)]


def _difference(metric: Metric, kind: str | None, pairs: Sequence[Pair]) -> ValueDifference:
    mine = [pair for pair in pairs if kind in (None, pair[0].type)]
    official, strict = (_estimate(metric, mine, strict) for strict in (False, True))
    return ValueDifference(type=kind, name=metric.name, official=official, strict=strict)


def _estimate(metric: Metric, pairs: Sequence[Pair], strict: bool) -> Estimate | None:
    both = [pair for pair in pairs if all(metric.name in outcome.sums(strict) for outcome in pair)]
    if not both:
        return None
    (first, videos), (second, _) = (rows_of([pair[side] for pair in both], metric, strict) for side in (0, 1))
    return metric.difference(first, second, videos)


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
