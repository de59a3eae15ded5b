"""Judge the stored predictions of a run: a pass of its own, which can be resumed and repeated with any judge."""

from collections.abc import Sequence
from pathlib import Path

from vidtune.errors import UserError
from vidtune.evaluation.judges.base import DEFAULT_JUDGE, ExpectedUsage, Judge, Judgement, JudgingSummary
from vidtune.evaluation.judges.replies import Verdict, read_verdict
from vidtune.evaluation.outcome import Collected, Metric, Outcome, ScoreSource, Status
from vidtune.evaluation.question import Prediction
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.judgements import (
    judge_identity,
    judge_items,
    judgement_record,
    judgements_file,
    judgements_of,
    require_identity,
)
from vidtune.evaluation.statistics import difference_of_means
from vidtune.machine.progress import ProgressDisplay
from vidtune.machine.records import RecordWriter
from vidtune.registry import JUDGES

HIGHEST_SCORE = 5.0
ACCURACY = Metric("accuracy", None, scale=1.0, right_or_wrong=True, difference=difference_of_means)
AVERAGE_SCORE = Metric("average_score", None, highest=HIGHEST_SCORE, scale=1.0, difference=difference_of_means)
NO_VERDICT = Verdict(None, None)


class Verdicts(ScoreSource):
    """The verdicts of a judge on the answers of a run, as published scripts of zero-shot video QA count them.

    ========  ==================================================================================================
    official  accuracy = yes / (yes + no), average score = sum of scores / judged; missing videos, errors and
              unjudged answers are in neither
    strict    right answers / all questions asked so far, and the sum of scores / the same; whatever is missing,
              failed or unjudged counts as wrong
    ========  ==================================================================================================

    Args:
        judge: a judge, which first judges what it has not judged yet; or a name: of a judge without settings, or of
            stored judgements.
    """

    metrics = (ACCURACY, AVERAGE_SCORE)

    def __init__(self, run: RunFolder, judge: Judge | str) -> None:
        if isinstance(judge, str) and judge in JUDGES:
            judge = JUDGES[judge]
        self.run = run
        self.judge = judge if isinstance(judge, Judge) else None
        self.name = judge.name if isinstance(judge, Judge) else judge

    def collect(self, progress: bool) -> Collected:
        summary = None if self.judge is None else judge_run(self.run.path, self.judge, progress=progress)
        identity = judge_identity(self.run, self.name)
        every = self._every_outcome()
        kept = last_of_each_id(every)
        return Collected(
            outcomes=kept,
            identity=identity,
            unanswered=self.run.planned - len(every),
            duplicates=len(every) - len(kept),
            summary=summary,
        )

    def expected(self) -> ExpectedUsage:
        return ExpectedUsage() if self.judge is None else estimate_run(self.run.path, self.judge)

    def stored(self) -> list[Outcome]:
        if self.name not in self.run.judges():
            known = ", ".join(self.run.judges()) or "none yet"
            raise UserError(
                f"{self.run.path}: no score by {self.name!r} (there: {known}); judge both runs with the same judge"
            )
        return last_of_each_id(self._every_outcome())

    def no_value(self, metric: Metric, outcomes: Sequence[Outcome]) -> str | None:
        judged = sum(outcome.status == "scored" for outcome in outcomes)
        if metric is not ACCURACY:
            return None
        return f"none of {judged} judgements says yes or no" if judged else "nothing was judged"

    def _every_outcome(self) -> list[tuple[str, Outcome]]:
        """(official id, outcome) of every question asked so far, in the order of the test set."""
        judgements = judgements_of(self.run, self.name)
        missing = [
            (record["id"], _outcome(record["index"], record["video"], record.get("type"), "missing"))
            for record in self.run.missing()
        ]
        asked = [(one.id, _judged(one, judgements.get(one.id))) for one in self.run.predictions()]
        return sorted([*missing, *asked], key=lambda entry: entry[1].index)


def last_of_each_id(outcomes: Sequence[tuple[str, Outcome]]) -> list[Outcome]:
    """Returns the outcomes without those whose id is answered again later; the published scripts judge an id once.

    Args:
        outcomes: (official id, outcome), in the order of the test set.
    """
    last = {name: outcome for name, outcome in outcomes if outcome.status in ("scored", "unjudged")}
    return [outcome for name, outcome in outcomes if last.get(name, outcome) is outcome]


def _judged(prediction: Prediction, judgement: Judgement | None) -> Outcome:
    status: Status = "scored"
    verdict = NO_VERDICT
    if prediction.error is not None:
        status = "error"
    elif judgement is None or judgement.error is not None:
        status = "unjudged"
    else:
        verdict = read_verdict(judgement.value)
    empty = prediction.error is None and not prediction.pred
    return _outcome(prediction.index, prediction.video, prediction.type, status, verdict, empty)


def _outcome(
    index: int, video: str, kind: str | None, status: Status, verdict: Verdict = NO_VERDICT, empty: bool = False
) -> Outcome:
    right, points = float(verdict.correct is True), float(verdict.score or 0)
    official = {}
    if verdict.correct is not None:
        official[ACCURACY.name] = (right, 1.0)
    if status == "scored":
        official[AVERAGE_SCORE.name] = (points, 1.0)
    return Outcome(
        index=index,
        video=video,
        type=kind,
        status=status,
        official=official,
        strict={ACCURACY.name: (right, 1.0), AVERAGE_SCORE.name: (points, 1.0)},
        empty=empty,
        verdict={True: "right", False: "wrong", None: "unclear"}[verdict.correct] if status == "scored" else None,
        points=verdict.score,
    )


def judge_run(run_dir: Path, judge: Judge | str = DEFAULT_JUDGE, *, progress: bool = True) -> JudgingSummary:
    """Judge every answer of a run that this judge has not judged yet. Answers left unjudged before are tried again.

    Raises:
        UserError: no run there, another judge already uses the name, or the judge cannot go on.
    """
    judge = JUDGES[judge] if isinstance(judge, str) else judge
    run = RunFolder(run_dir)
    items = judge_items(run.predictions())
    require_identity(run, judge.name, judge.identity)
    with RecordWriter(judgements_file(run, judge.name)) as records:
        known = judgements_of(run, judge.name)
        pending = [item for item in items if item.id not in known or known[item.id].error is not None]
        reasons: dict[str, int] = {}
        task = f"judging with {judge.name}"
        with ProgressDisplay(enabled=progress and bool(pending)) as display:
            display.start(task, len(pending))

            def store(judgement: Judgement) -> None:
                records.append(judgement_record(judgement))
                if judgement.error is not None:
                    reasons[judgement.error] = reasons.get(judgement.error, 0) + 1
                display.advance(task)

            usage = judge.judge(pending, store)
    return JudgingSummary(
        judge=judge.name,
        items=len(items),
        reused=len(items) - len(pending),
        unjudged=sum(reasons.values()),
        reasons=reasons,
        usage=usage,
    )


def estimate_run(run_dir: Path, judge: Judge) -> ExpectedUsage:
    """Returns what `judge_run` would take; sends no request."""
    run = RunFolder(run_dir)
    known = judgements_of(run, judge.name)
    items = judge_items(run.predictions())
    return judge.estimate([item for item in items if item.id not in known or known[item.id].error is not None])
