"""Two runs of one benchmark, question by question: by the verdicts of a judge, or by metrics."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.measured import MeasuredBenchmark, Metric
from vidtune.evaluation.judges import DEFAULT_JUDGE
from vidtune.evaluation.measuring import METRICS, Measurement, measured_benchmark, measurements_of, percent, rows_of
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.score import Outcome, outcomes_of
from vidtune.evaluation.statistics import LEVEL, METHOD, Estimate, difference_of_sums, mean_difference

Pair = tuple[Outcome, Outcome]


class Comparison(BaseModel):
    """First run minus second run, over the questions that both were asked.

    Args:
        differs_in: rules in which the two protocols differ; the difference of scores is then also theirs.
        both_right, only_first, only_second, both_wrong: questions with a yes or no in both runs.
        accuracy: difference over those questions.
        strict_accuracy: difference over all common questions; whatever is missing, failed or unjudged counts as wrong.
        average_score: difference over the questions judged in both runs.
        by_type: difference in accuracy per question type.
    """

    model_config = ConfigDict(frozen=True)

    benchmark: str
    first: str
    second: str
    judge: str
    differs_in: tuple[str, ...]
    questions: int
    both_right: int
    only_first: int
    only_second: int
    both_wrong: int
    accuracy: Estimate | None
    strict_accuracy: Estimate | None
    average_score: Estimate | None
    by_type: dict[str, Estimate]
    intervals: str = f"{LEVEL:.0%}, {METHOD}, questions paired"


class MetricDifference(BaseModel):
    """One metric of the first run minus that of the second, in percent; None where one of them has none.

    Args:
        official: over the questions answered in both runs.
        strict: over all questions of both; whatever was not answered counts as an empty answer.
    """

    model_config = ConfigDict(frozen=True)

    type: str
    name: str
    official: Estimate | None
    strict: Estimate | None


class MetricComparison(BaseModel):
    """First run minus second run of a benchmark that metrics score.

    Args:
        differs_in: rules in which the two protocols differ; the difference of scores is then also theirs.
        questions: that both runs hold; ``answered`` of them in both.
    """

    model_config = ConfigDict(frozen=True)

    benchmark: str
    first: str
    second: str
    judge: str = METRICS
    differs_in: tuple[str, ...]
    questions: int
    answered: int
    differences: tuple[MetricDifference, ...]
    intervals: str = f"{LEVEL:.0%}, {METHOD}, questions paired"

    def difference(self, type: str, name: str) -> MetricDifference:
        """The difference in this metric."""
        return next(one for one in self.differences if (one.type, one.name) == (type, name))


def compare_runs(first: Path, second: Path, judge: str = DEFAULT_JUDGE) -> Comparison | MetricComparison:
    """Compare two runs that the same judge has judged, or that metrics have scored.

    Raises:
        UserError: different benchmarks or test sets, or no common question.
    """
    one, two = RunFolder(first), RunFolder(second)
    if one.info.benchmark != two.info.benchmark:
        raise UserError(
            f"{first} is {one.info.benchmark}, {second} is {two.info.benchmark}; compare runs of one benchmark"
        )
    if one.info.data.fingerprint != two.info.data.fingerprint:
        raise UserError(
            f"{first} and {second} were asked different versions of {one.info.benchmark}; they cannot be paired"
        )
    if benchmark := measured_benchmark(one.info.benchmark):
        return _compare_metrics(one, two, benchmark)
    for run in (one, two):
        if judge not in run.judges():
            known = ", ".join(run.judges()) or "none yet"
            raise UserError(f"{run.path}: no score by {judge!r} (there: {known}); judge both runs with the same judge")
    second_outcomes = {outcome.index: outcome for outcome in outcomes_of(two, judge)[0]}
    pairs = [
        (outcome, second_outcomes[outcome.index])
        for outcome in outcomes_of(one, judge)[0]
        if outcome.index in second_outcomes
    ]
    if not pairs:
        raise UserError(f"{first} and {second} have no question in common")
    decided = [pair for pair in pairs if all(outcome.verdict.correct is not None for outcome in pair)]
    judged = [pair for pair in pairs if all(outcome.status == "judged" for outcome in pair)]
    types = sorted({pair[0].type for pair in decided if pair[0].type is not None})
    by_type = {kind: _difference([pair for pair in decided if pair[0].type == kind], _right) for kind in types}

    def count(first_right: bool, second_right: bool) -> int:
        return sum((a.verdict.correct, b.verdict.correct) == (first_right, second_right) for a, b in decided)

    return Comparison(
        benchmark=one.info.benchmark,
        first=str(one.path),
        second=str(two.path),
        judge=judge,
        differs_in=_differences(one, two),
        questions=len(pairs),
        both_right=count(True, True),
        only_first=count(True, False),
        only_second=count(False, True),
        both_wrong=count(False, False),
        accuracy=_difference(decided, _right),
        strict_accuracy=_difference(pairs, _right),
        average_score=_difference(judged, _points),
        by_type={kind: estimate for kind, estimate in by_type.items() if estimate is not None},
    )


def _compare_metrics(one: RunFolder, two: RunFolder, benchmark: MeasuredBenchmark) -> MetricComparison:
    found = [measurements_of(run) for run in (one, two)]
    for run, measurements in zip((one, two), found, strict=True):
        if not measurements:
            raise UserError(f"{run.path}: not scored yet; score both runs first")
    common = sorted(found[0].keys() & found[1].keys())
    if not common:
        raise UserError(f"{one.path} and {two.path} have no question in common")
    pairs = [(found[0][index], found[1][index]) for index in common]
    answered = [pair for pair in pairs if all(measurement.answered for measurement in pair)]
    types = {first.type for first, _ in pairs}
    return MetricComparison(
        benchmark=one.info.benchmark,
        first=str(one.path),
        second=str(two.path),
        differs_in=_differences(one, two),
        questions=len(pairs),
        answered=len(answered),
        differences=tuple(
            MetricDifference(
                type=metric.type,
                name=metric.name,
                official=_metric_difference(answered, metric, strict=False),
                strict=_metric_difference(pairs, metric, strict=True),
            )
            for metric in benchmark.metrics
            if metric.type in types
        ),
    )


def _metric_difference(
    pairs: Sequence[tuple[Measurement, Measurement]], metric: Metric, strict: bool
) -> Estimate | None:
    (first, videos), (second, _) = (rows_of([pair[side] for pair in pairs], metric, strict) for side in (0, 1))
    if first.shape != second.shape:  # one of the runs was scored where this metric could not be computed
        return None
    return percent(difference_of_sums(first, second, metric.from_sums, videos))


def _difference(pairs: Sequence[Pair], value: Callable[[Outcome], float]) -> Estimate | None:
    first, second = ([value(pair[side]) for pair in pairs] for side in (0, 1))
    return mean_difference(first, second, [pair[0].video for pair in pairs])


def _differences(one: RunFolder, two: RunFolder) -> tuple[str, ...]:
    first, second = (run.info.protocol.model_dump(mode="json") for run in (one, two))
    return tuple(key for key in {**first, **second} if first.get(key) != second.get(key))


def _right(outcome: Outcome) -> float:
    return float(outcome.verdict.correct is True)


def _points(outcome: Outcome) -> float:
    return float(outcome.verdict.score or 0)
