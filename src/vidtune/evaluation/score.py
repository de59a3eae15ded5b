"""Scores of a judged run: the published numbers, strict ones beside them, and what stands behind them.

========  ==================================================================================================
official  accuracy = yes / (yes + no), average score = sum of scores / judged; missing videos, errors and
          unjudged answers are in neither
strict    right answers / all questions asked so far, and the sum of scores / the same; whatever is missing,
          failed or unjudged counts as wrong
========  ==================================================================================================

A benchmark whose answers are measured by metrics is scored by `evaluation.measuring` instead.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vidtune.errors import UserError
from vidtune.evaluation.judges import DEFAULT_JUDGE, Judge, get_judge
from vidtune.evaluation.judges.replies import Verdict, read_verdict
from vidtune.evaluation.judging import judge_identity, judge_run, judgements_of
from vidtune.evaluation.measuring import MetricScore, measure_run, measured_benchmark
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.identity import CheckpointIdentity
from vidtune.evaluation.statistics import LEVEL, METHOD, Estimate, ratio
from vidtune.machine.files import read_object, write_text_atomically

HIGHEST_SCORE = 5.0
NO_VERDICT = Verdict(None, None)
Status = Literal["judged", "unjudged", "missing", "error"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one question.

    Args:
        verdict: of the judge; holds nothing unless ``status`` is "judged".
        empty: the model answered nothing.
    """

    index: int
    id: str
    video: str
    type: str | None
    status: Status
    verdict: Verdict = NO_VERDICT
    empty: bool = False


class Scores(BaseModel):
    """Numbers over a set of questions.

    Args:
        questions: asked so far, with missing videos and errors.
        judged, yes, no: judgements, and those that say yes, or no; the rest says neither.
        empty: answers without any text; they are judged like others.
        accuracy, average_score: official; None with a ``reason``.
        strict_accuracy, strict_average_score: None when there is no question.
    """

    model_config = ConfigDict(frozen=True)

    questions: int
    videos: int
    judged: int
    yes: int
    no: int
    unjudged: int
    missing: int
    errors: int
    empty: int
    accuracy: Estimate | None
    average_score: Estimate | None
    strict_accuracy: Estimate | None
    strict_average_score: Estimate | None
    reason: str | None = None


class RunScore(BaseModel):
    """The scores of one run by one judge; stored in ``scores/<judge>.json``.

    Args:
        unanswered: questions of the run that were not asked yet; in no number.
        duplicates: questions whose official id comes again later in the test set; only the last of them is scored.
        intervals: how the 95 % intervals were made.
    """

    model_config = ConfigDict(frozen=True)

    benchmark: str
    blind: bool
    without: tuple[str, ...] = Field(default=(), exclude_if=lambda streams: not streams)
    protocol_hash: str
    checkpoint: CheckpointIdentity
    system: str | None
    judge: str
    judge_identity: dict[str, Any]
    intervals: str = f"{LEVEL:.0%}, {METHOD}"
    unanswered: int
    duplicates: int
    overall: Scores
    by_type: dict[str, Scores]


AnyScore = RunScore | MetricScore


def score_run(run_dir: Path, judge: Judge | str = DEFAULT_JUDGE, *, progress: bool = True) -> AnyScore:
    """Score a run and store the result; by metrics, without judge, where its benchmark is measured.

    Args:
        judge: a judge, which first judges what it has not judged yet; or a name: of a judge without settings, or of
            stored judgements.

    Raises:
        UserError: no run there, nothing asked yet, or no judgements of that name.
    """
    run = RunFolder(run_dir)
    if benchmark := measured_benchmark(run.info.benchmark):
        return measure_run(run, benchmark)
    if judge in ("rules", DEFAULT_JUDGE):
        judge = get_judge()
    if isinstance(judge, Judge):
        judge_run(run.path, judge, progress=progress)
        judge = judge.name
    identity = judge_identity(run, judge)
    outcomes, duplicates = outcomes_of(run, judge)
    if not outcomes:
        raise UserError(f"{run.path}: no question was asked yet; run the evaluation first")
    types = sorted({outcome.type for outcome in outcomes if outcome.type is not None})
    score = RunScore(
        benchmark=run.info.benchmark,
        blind=run.info.protocol.blind,
        without=run.info.protocol.without,
        protocol_hash=run.info.protocol_hash,
        checkpoint=run.info.checkpoint,
        system=run.info.system,
        judge=judge,
        judge_identity=identity,
        unanswered=run.planned - len(outcomes) - duplicates,
        duplicates=duplicates,
        overall=score_outcomes(outcomes),
        by_type={kind: score_outcomes([one for one in outcomes if one.type == kind]) for kind in types},
    )
    text = json.dumps(score.model_dump(mode="json"), indent=1)
    write_text_atomically(run.path / "scores" / f"{judge}.json", text + "\n")
    return score


def read_score(run_dir: Path, judge: str) -> AnyScore:
    """A stored score."""
    stored = read_object(Path(run_dir) / "scores" / f"{judge}.json")
    return MetricScore.model_validate(stored) if "measuring" in stored else RunScore.model_validate(stored)


def outcomes_of(run: RunFolder, judge: str) -> tuple[list[Outcome], int]:
    """What became of every question asked so far, in test-set order, and the number of repeated ids left out."""
    judgements = judgements_of(run, judge)
    outcomes = [
        Outcome(record["index"], record["id"], record["video"], record.get("type"), "missing")
        for record in run.missing()
    ]
    for prediction in run.predictions():
        judgement = judgements.get(prediction.id)
        status: Status = "judged"
        verdict = NO_VERDICT
        if prediction.error is not None:
            status = "error"
        elif judgement is None or judgement.error is not None:
            status = "unjudged"
        else:
            verdict = read_verdict(judgement.value)
        outcomes.append(
            Outcome(
                prediction.index,
                prediction.id,
                prediction.video,
                prediction.type,
                status,
                verdict,
                empty=prediction.error is None and not prediction.pred,
            )
        )
    outcomes.sort(key=lambda outcome: outcome.index)
    last = {outcome.id: outcome for outcome in outcomes if outcome.status in ("judged", "unjudged")}
    kept = [outcome for outcome in outcomes if last.get(outcome.id, outcome) is outcome]
    return kept, len(outcomes) - len(kept)


def score_outcomes(outcomes: Sequence[Outcome]) -> Scores:
    """The numbers over these questions."""
    judged = [outcome for outcome in outcomes if outcome.status == "judged"]
    decided = [outcome for outcome in judged if outcome.verdict.correct is not None]
    yes = sum(outcome.verdict.correct is True for outcome in decided)
    reason = None
    if not decided:
        reason = f"none of {len(judged)} judgements says yes or no" if judged else "nothing was judged"
    return Scores(
        questions=len(outcomes),
        videos=len({outcome.video for outcome in outcomes}),
        judged=len(judged),
        yes=yes,
        no=len(decided) - yes,
        unjudged=sum(outcome.status == "unjudged" for outcome in outcomes),
        missing=sum(outcome.status == "missing" for outcome in outcomes),
        errors=sum(outcome.status == "error" for outcome in outcomes),
        empty=sum(outcome.empty for outcome in outcomes),
        accuracy=_mean(decided, _right, 1.0),
        average_score=_mean(judged, _points, HIGHEST_SCORE),
        strict_accuracy=_mean(outcomes, _right, 1.0),
        strict_average_score=_mean(outcomes, _points, HIGHEST_SCORE),
        reason=reason,
    )


def _mean(outcomes: Iterable[Outcome], value: Callable[[Outcome], float], largest: float) -> Estimate | None:
    listed = list(outcomes)
    values = [value(outcome) for outcome in listed]
    return ratio(values, [1.0] * len(values), [outcome.video for outcome in listed], bounds=(0.0, largest))


def _right(outcome: Outcome) -> float:
    return float(outcome.verdict.correct is True)


def _points(outcome: Outcome) -> float:
    return float(outcome.verdict.score or 0)
