"""Judge the stored predictions of a run: a pass of its own, which can be resumed and repeated with any judge."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vidtune.errors import UserError, errors_of
from vidtune.evaluation.judged_values import YES_AND_SCORES, JudgedValues
from vidtune.evaluation.judges.base import (
    DEFAULT_JUDGE,
    ExpectedUsage,
    Judge,
    JudgeItem,
    Judgement,
    JudgingStoppedError,
    JudgingSummary,
    Usage,
)
from vidtune.evaluation.judges.replies import NO_VERDICT, Verdict
from vidtune.evaluation.ledger import Entry, Judging
from vidtune.evaluation.outcome import Collected, Metric, Outcome, ScoreSource
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.judgements import (
    form_of,
    items_to_judge,
    judge_identity,
    judgement_record,
    judgements_file,
    judgements_of,
    require_identity,
    usable,
)
from vidtune.evaluation.runs.run_ledger import judged_ledger
from vidtune.evaluation.runs.usage import note_usage
from vidtune.machine.progress import ProgressDisplay
from vidtune.machine.records import RecordWriter
from vidtune.registry import JUDGES


class Verdicts(ScoreSource):
    """The verdicts of a judge on the answers of a run, as published scripts of zero-shot video QA count them.

    ========  ==================================================================================================
    official  accuracy = yes / (yes + no), average score = sum of scores / judged; missing videos, errors and
              unjudged answers are in neither; of answers with one id the last counts
    strict    right answers / all planned questions, and the sum of scores / the same; whatever is missing, failed,
              not asked or unjudged counts as wrong
    ========  ==================================================================================================

    A verdict that is unreadable or outside the scale leaves its answer unjudged. The published script counts it; its
    number stands beside the official one.

    Args:
        judge: a judge, which first judges what it has not judged yet; or a name: of a judge without settings, or of
            stored judgements.
        judged: the numbers that verdicts add up to.
    """

    def __init__(self, run: RunFolder, judge: Judge | str, judged: JudgedValues = YES_AND_SCORES) -> None:
        self.judged = judged
        self.metrics = judged.metrics
        if isinstance(judge, str) and judge in JUDGES:
            judge = JUDGES[judge]
        self.run = run
        self.judge = judge if isinstance(judge, Judge) else None
        self.name = judge.name if isinstance(judge, Judge) else judge

    def collect(self, progress: bool) -> Collected:
        summary, stopped = None, None
        try:
            summary = None if self.judge is None else judge_run(self.run.path, self.judge, progress=progress)
        except JudgingStoppedError as error:
            stopped = error
        identity = judge_identity(self.run, self.name)
        return Collected(outcomes=self._outcomes(), identity=identity, summary=summary, stopped=stopped)

    def expected(self) -> ExpectedUsage:
        return ExpectedUsage() if self.judge is None else estimate_run(self.run.path, self.judge)

    def stored(self) -> list[Outcome]:
        if self.name not in self.run.judges():
            known = ", ".join(self.run.judges()) or "none yet"
            raise UserError(
                f"{self.run.path}: no score by {self.name!r} (there: {known}); name one of them, or judge the run by it"
            )
        return self._outcomes()

    def no_value(self, metric: Metric, outcomes: Sequence[Outcome]) -> str | None:
        if metric.type is None and metric != self.metrics[0] and not metric.of_all:
            return None  # the reason stands at the first one
        judged = sum(outcome.entry.counted for outcome in outcomes)
        if not judged:
            return "nothing was judged"
        return f"none of {judged} judgements {'says yes or no' if metric.right_or_wrong else 'is about it'}"

    def _outcomes(self) -> list[Outcome]:
        ledger, judgements = judged_ledger(self.run, self.name)
        return [_outcome(entry, judgements.get(entry.index), self.judged) for entry in ledger.entries]


def _outcome(entry: Entry, judgement: Judgement | None, judged: JudgedValues) -> Outcome:
    counts = judgement is not None and entry.counted
    said = None if judgement is None else _counted_as_published(judgement)
    verdict = said if counts and said is not None else NO_VERDICT
    published: Mapping[str, Sequence[float]] = {}
    if said is not None and not entry.repeated:
        published = judged.rows(said, entry.type)
    strict = verdict if counts else judged.worst
    return Outcome(
        entry,
        official=published if counts else {},
        strict=judged.rows(replace(strict, correct=strict.correct is True), entry.type),
        published=published,
        verdict=_said(entry, verdict) if counts else None,
        points=verdict.score,
    )


def _counted_as_published(judgement: Judgement) -> Verdict | None:
    """The verdict that the published script counts, also where none counts here; None: it counts nothing."""
    form = form_of(judgement.item)
    if judgement.error is None:
        return form.read(judgement.value)
    return None if form.given_up is None or judgement.reply is None else form.read(form.given_up)


def _said(entry: Entry, verdict: Verdict) -> str:
    if verdict.correct is None:
        return "unclear" if entry.judging is Judging.NO_VERDICT else "judged"
    return "right" if verdict.correct else "wrong"


def judge_run(run_dir: Path, judge: Judge | str = DEFAULT_JUDGE, *, progress: bool = True) -> JudgingSummary:
    """Judge every answer of a run that this judge has not judged yet. Those left unjudged before are tried again.

    Raises:
        JudgingStoppedError: the judge cannot go on; judgements so far are stored.
        UserError: no run there, or another judge already uses the name.
    """
    judge = JUDGES[judge] if isinstance(judge, str) else judge
    run = RunFolder(run_dir)
    items = items_to_judge(run.predictions())
    require_identity(run, judge.name, judge.identity)
    with RecordWriter(judgements_file(run, judge.name)) as records:
        pending = _pending(items, judgements_of(run, judge.name, items))
        left = {item.id for item in pending}
        task = f"judging with {judge.name}"
        with ProgressDisplay(enabled=progress and bool(pending)) as display:
            display.start(task, len(pending))

            def store(judgement: Judgement) -> None:
                records.append(judgement_record(judgement))
                if usable(judgement):
                    left.discard(judgement.item.id)
                display.advance(task)

            try:
                with errors_of(f"judge {judge.name}"):
                    usage = judge.judge(pending, store)
            finally:
                note_usage(run.path, judge, judge.name)
    if not isinstance(usage, Usage):
        raise UserError(f"judge {judge.name}: its method judge returned {type(usage).__name__}, expected a Usage")
    return JudgingSummary(
        judge=judge.name, items=len(items), reused=len(items) - len(pending), unjudged=len(left), usage=usage
    )


def estimate_run(run_dir: Path, judge: Judge) -> ExpectedUsage:
    """Returns what `judge_run` would take; sends no request."""
    run = RunFolder(run_dir)
    items = items_to_judge(run.predictions())
    return judge.estimate(_pending(items, judgements_of(run, judge.name, items)))


def _pending(items: Sequence[JudgeItem], known: Mapping[str, Judgement]) -> list[JudgeItem]:
    """The items without a verdict that counts; those that were tried before come last, with what came of it."""
    new = [item for item in items if item.id not in known]
    tried = [(item, known[item.id]) for item in items if item.id in known and not usable(known[item.id])]
    return [*new, *(replace(item, unjudged=one.error or form_of(item).state(one.value)) for item, one in tried)]
