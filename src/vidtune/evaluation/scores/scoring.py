"""Score a run: one pass over the outcomes of its questions, wherever they come from."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol as Interface

import numpy as np

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.benchmarks.measured import MeasuredBenchmark
from vidtune.evaluation.benchmarks.own.finding import is_known, stored_benchmark
from vidtune.evaluation.judges.base import DEFAULT_JUDGE, Judge
from vidtune.evaluation.ledger import Asking, Judging, examples, reason_lines
from vidtune.evaluation.outcome import Collected, Metric, Outcome, ScoreSource, rows_of
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.run_ledger import answers_digest, require_asked
from vidtune.evaluation.scores.judging import Verdicts
from vidtune.evaluation.scores.measuring import Measurements
from vidtune.evaluation.scores.score import METRICS, NamedValue, Score, ScoreGroup
from vidtune.evaluation.scores.score_file import write_score
from vidtune.spelling import by_numbers


class NothingScoredError(UserError):
    """A run of which no answer is in any official value; its score is stored, and is the attribute ``score``."""

    def __init__(self, message: str, score: Score) -> None:
        super().__init__(message)
        self.score = score


class ScoringSteps(Interface):
    """Interface of what `score_run` calls while it scores a run, for example to print how far it is."""

    def begins(self, run: RunFolder, source: ScoreSource) -> None:
        """Called first, before a judge gets a request or a metric is computed.

        Args:
            source: what will judge or measure the answers.
        """

    def collected(self, collected: Collected) -> None:
        """Called when every question has its outcome, also where the judge was given up (``collected.stopped``)."""

    def scored(self, score: Score) -> None:
        """Called when the score is stored. Not called where there is none, see `score_run`."""


def score_run(
    run_dir: Path, judge: Judge | str = DEFAULT_JUDGE, *, progress: bool = True, steps: ScoringSteps | None = None
) -> Score:
    """Score a run and store the result. Where metrics score its benchmark, the answers are measured, without a judge.

    Args:
        judge: a judge, which first judges what it has not judged yet; or a name: of a judge without settings, or of
            stored judgements.
        steps: gets a call at each step; None: nobody does.

    Raises:
        JudgingStoppedError: the judge could not go on. The score of what it has judged is stored; where it has judged
            nothing, none is.
        NothingScoredError: no answer is in any official value; the line says why, and the score is stored.
        UserError: no run there, nothing asked yet, or no judgements of that name; no score is stored.
    """
    run = RunFolder(run_dir)
    source = source_for(run, judge)
    if steps is not None:
        steps.begins(run, source)
    collected = source.collect(progress)
    if steps is not None:
        steps.collected(collected)
    score = _score(run, source, collected)
    write_score(run.path, score)
    if steps is not None:
        steps.scored(score)
    if collected.stopped is not None:
        raise collected.stopped
    if not score.coverage:
        raise NothingScoredError(f"{run.path}: nothing was scored: {'; '.join(score.reasons)}", score)
    return score


def _score(run: RunFolder, source: ScoreSource, collected: Collected) -> Score:
    """The score of outcomes that were collected from a source.

    Raises:
        UserError: nothing asked yet, or nothing judged before the judge was given up.
    """
    entries = [outcome.entry for outcome in collected.outcomes]
    require_asked(run, entries)
    if collected.stopped is not None and not any(entry.counted for entry in entries):
        raise collected.stopped
    fragile = [entry for entry in entries if entry.fragile]
    groups = [_group(kind, source, collected) for kind in _types(source.metrics, collected.outcomes)]
    whole = any(metric.type is None for metric in source.metrics)
    protocol = run.info.protocol
    return Score(
        benchmark=run.info.benchmark,
        blind=protocol.blind,
        without=protocol.without,
        protocol_hash=run.info.protocol_hash,
        checkpoint=run.info.checkpoint,
        system=run.info.system,
        judge=source.name,
        identity=dict(collected.identity),
        unanswered=sum(entry.asking is Asking.NOT_ASKED for entry in entries),
        duplicates=sum(outcome.entry.repeated and not outcome.official for outcome in collected.outcomes),
        reasons=(*filter(None, [run.info.part, run.info.mixture]), *reason_lines(entries)),
        fragile_examples=examples(fragile) if fragile else "",
        answers=answers_digest(run, None if source.name == METRICS else source.name),
        left_out=dict(collected.left_out),
        overall=_group(None, source, collected) if whole else None,
        groups=tuple(groups),
    )


def source_for(run: RunFolder, judge: Judge | str = DEFAULT_JUDGE) -> ScoreSource:
    """Where the outcomes of a run come from: metrics if its benchmark has some, otherwise the judge.

    Raises:
        UserError: metrics are asked for, and there are none.
    """
    if not is_known(run.info.protocol):
        return Verdicts(run, judge)
    benchmark = stored_benchmark(run.info.protocol, run.info.data.file)
    if by_metrics(benchmark, judge):
        assert isinstance(benchmark, MeasuredBenchmark)
        return Measurements(run, benchmark)
    return Verdicts(run, judge, benchmark.judged)


def by_metrics(benchmark: Benchmark, judge: Judge | str) -> bool:
    """Whether metrics score the answers to a benchmark, not the judge that is named.

    Raises:
        UserError: metrics are asked for, and there are none.
    """
    if isinstance(benchmark, MeasuredBenchmark):
        return judge == METRICS or not benchmark.judged_instead
    if judge == METRICS:
        raise UserError(f"{benchmark.name}: no metrics score its answers; name a judge")
    return False


def _types(metrics: Sequence[Metric], outcomes: Sequence[Outcome]) -> list[str]:
    """Question types that get values: those with metrics of their own in that order, others by name."""
    there = {outcome.type for outcome in outcomes if outcome.type is not None}
    own = [kind for kind in dict.fromkeys(metric.type for metric in metrics) if kind in there and kind is not None]
    return own if all(metric.type for metric in metrics) else [*own, *sorted(there - set(own), key=by_numbers)]


def _group(kind: str | None, source: ScoreSource, collected: Collected) -> ScoreGroup:
    """The values of one question type, or of all questions."""
    mine = [outcome for outcome in collected.outcomes if kind in (None, outcome.type)]
    metrics = [one for one in source.metrics if one.type == kind or (one.type is None and not one.of_all)]
    right, decided = 0, 0
    for metric in metrics:
        if metric.type is None and metric.right_or_wrong:
            said = [outcome.official[metric.name] for outcome in mine if metric.name in outcome.official]
            right, decided = (int(sum(row[place] for row in said)) for place in (0, 1))
    entries = [outcome.entry for outcome in mine]
    asked, judged = Counter(entry.asking for entry in entries), Counter(entry.judging for entry in entries)
    return ScoreGroup(
        type=kind,
        questions=len(mine),
        scored=sum(entry.counted for entry in entries),
        yes=right,
        no=decided - right,
        unjudged=sum(entry.unjudged for entry in entries),
        missing=asked[Asking.NO_FILE],
        errors=asked[Asking.FAILED],
        unanswered=asked[Asking.NOT_ASKED],
        empty=asked[Asking.EMPTY],
        unread=judged[Judging.UNREAD],
        unclear=judged[Judging.NO_VERDICT],
        out_of_range=judged[Judging.OUT_OF_RANGE],
        unreadable=judged[Judging.UNREADABLE],
        judge_failed=judged[Judging.FAILED],
        not_judged=judged[Judging.NOT_JUDGED],
        excluded=judged[Judging.EXCLUDED],
        repeated=sum(one.entry.repeated and one.entry.counted and not one.official for one in mine),
        similar=sum(entry.similar is not None for entry in entries),
        lenient=sum(bool(entry.lenient) and entry.counted for entry in entries),
        with_margin=sum(entry.fragile is not None for entry in entries),
        fragile=sum(entry.fragile is True for entry in entries),
        videos=len({entry.video for entry in entries}),
        values=tuple(_value(metric, mine, source, collected) for metric in metrics),
    )


def _value(metric: Metric, outcomes: Sequence[Outcome], source: ScoreSource, collected: Collected) -> NamedValue:
    official, strict = (metric.estimate(*rows_of(outcomes, metric, strict)) for strict in (False, True))
    reason = None
    if official is None:
        reason = collected.left_out.get(metric.name) or source.no_value(metric, outcomes)
    return NamedValue(
        name=metric.name, official=official, strict=strict, published=_published(metric, outcomes), reason=reason
    )


def _published(metric: Metric, outcomes: Sequence[Outcome]) -> float | None:
    """The value that the published script prints where it counts verdicts that are in no official value here."""
    rows = [outcome.published[metric.name] for outcome in outcomes if metric.name in outcome.published]
    if all(outcome.entry.counted for outcome in outcomes if outcome.published) or not rows:
        return None
    return metric.scale * float(metric.from_sums(np.array(rows, dtype=np.float64).sum(axis=0)))
