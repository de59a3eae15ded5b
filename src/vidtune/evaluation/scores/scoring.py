"""Score a run: one pass over the outcomes of its questions, wherever they come from."""

from collections.abc import Sequence
from pathlib import Path

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.measured import MeasuredBenchmark
from vidtune.evaluation.judges.base import DEFAULT_JUDGE, Judge
from vidtune.evaluation.outcome import Collected, Metric, Outcome, ScoreSource, rows_of
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.judging import Verdicts
from vidtune.evaluation.scores.measuring import Measurements
from vidtune.evaluation.scores.score import NamedValue, Score, ScoreGroup
from vidtune.evaluation.scores.score_file import write_score
from vidtune.registry import BENCHMARKS


def score_run(run_dir: Path, judge: Judge | str = DEFAULT_JUDGE, *, progress: bool = True) -> Score:
    """Score a run and store the result. Where metrics score its benchmark, the answers are measured, without a judge.

    Args:
        judge: a judge, which first judges what it has not judged yet; or a name: of a judge without settings, or of
            stored judgements.

    Raises:
        UserError: no run there, nothing asked yet, or no judgements of that name.
    """
    run = RunFolder(run_dir)
    source = source_for(run, judge)
    return score_collected(run, source, source.collect(progress))


def score_collected(run: RunFolder, source: ScoreSource, collected: Collected) -> Score:
    """The score of outcomes that were collected from a source; stored with the run.

    Raises:
        UserError: nothing asked yet.
    """
    if not collected.outcomes:
        raise UserError(f"{run.path}: no question was asked yet; run the evaluation first")
    groups = [_group(kind, source, collected) for kind in _types(source.metrics, collected.outcomes)]
    whole = any(metric.type is None for metric in source.metrics)
    protocol = run.info.protocol
    score = Score(
        benchmark=run.info.benchmark,
        blind=protocol.blind,
        without=protocol.without,
        protocol_hash=run.info.protocol_hash,
        checkpoint=run.info.checkpoint,
        system=run.info.system,
        judge=source.name,
        identity=dict(collected.identity),
        unanswered=collected.unanswered,
        duplicates=collected.duplicates,
        left_out=dict(collected.left_out),
        overall=_group(None, source, collected) if whole else None,
        groups=tuple(groups),
    )
    write_score(run.path, score)
    return score


def source_for(run: RunFolder, judge: Judge | str = DEFAULT_JUDGE) -> ScoreSource:
    """Where the outcomes of a run come from: metrics if its benchmark has some, otherwise the judge."""
    name = run.info.benchmark
    if name in BENCHMARKS:
        benchmark = BENCHMARKS[name]
        if isinstance(benchmark, MeasuredBenchmark):
            return Measurements(run, benchmark)
    return Verdicts(run, judge)


def _types(metrics: Sequence[Metric], outcomes: Sequence[Outcome]) -> list[str]:
    """Question types that get values: those with metrics of their own in that order, others by name."""
    there = {outcome.type for outcome in outcomes if outcome.type is not None}
    own = [kind for kind in dict.fromkeys(metric.type for metric in metrics) if kind in there and kind is not None]
    return own if all(metric.type for metric in metrics) else [*own, *sorted(there - set(own))]


def _group(kind: str | None, source: ScoreSource, collected: Collected) -> ScoreGroup:
    """The values of one question type, or of all questions."""
    mine = [outcome for outcome in collected.outcomes if kind in (None, outcome.type)]
    metrics = [metric for metric in source.metrics if metric.type is None or metric.type == kind]
    right, decided = 0, 0
    for metric in metrics:
        if metric.type is None and metric.right_or_wrong:
            said = [outcome.official[metric.name][0] for outcome in mine if metric.name in outcome.official]
            right, decided = int(sum(said)), len(said)
    count = {status: 0 for status in ("scored", "unjudged", "missing", "error", "unanswered")}
    for outcome in mine:
        count[outcome.status] += 1
    return ScoreGroup(
        type=kind,
        questions=len(mine),
        scored=count["scored"],
        yes=right,
        no=decided - right,
        unjudged=count["unjudged"],
        missing=count["missing"],
        errors=count["error"],
        unanswered=count["unanswered"],
        empty=sum(outcome.empty for outcome in mine),
        unread=sum(outcome.unread for outcome in mine),
        videos=len({outcome.video for outcome in mine}),
        values=tuple(_value(metric, mine, source, collected) for metric in metrics),
    )


def _value(metric: Metric, outcomes: Sequence[Outcome], source: ScoreSource, collected: Collected) -> NamedValue:
    official, strict = (metric.estimate(*rows_of(outcomes, metric, strict)) for strict in (False, True))
    reason = None
    if official is None:
        reason = collected.left_out.get(metric.name) or source.no_value(metric, outcomes)
    return NamedValue(name=metric.name, official=official, strict=strict, reason=reason)
