"""The ledger of a run, made from its folder."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.judges.base import Judgement
from vidtune.evaluation.ledger import ANSWERS, Asking, Entry, Judging, Ledger
from vidtune.evaluation.question import Prediction
from vidtune.evaluation.runs.folder import PlannedQuestion, RunFolder
from vidtune.evaluation.runs.judgements import form_of, items_of_questions, judgements_of, last_answers

LONGEST_DETAIL = 60
ASKED_AGAIN = "the same command asks again"
SECONDS = re.compile(r" after [0-9.]+ s(?= \()")
"""How long a reader lived that died; left out, so that such reasons are alike."""


def require_asked(run: RunFolder, entries: Sequence[Entry]) -> None:
    """Raises UserError when no question of a run was asked yet."""
    if all(entry.asking is Asking.NOT_ASKED for entry in entries):
        raise UserError(f"{run.path}: no question was asked yet; run the evaluation first")


def ledger_of(run: RunFolder) -> Ledger:
    """Returns the planned questions of a run with their states of asking."""
    return Ledger(tuple(_entries(run, run.predictions())))


def judged_ledger(run: RunFolder, judge: str) -> tuple[Ledger, dict[int, Judgement]]:
    """Returns the ledger of a run with the states of judging by a judge, and its judgements by question index."""
    predictions = run.predictions()
    items = items_of_questions(predictions)
    stored = judgements_of(run, judge, items.values())
    judgements = {index: stored[item.id] for index, item in items.items() if item.id in stored}
    entries = [
        _judged(entry, judgements.get(entry.index)) if entry.answered else entry for entry in _entries(run, predictions)
    ]
    return Ledger(tuple(entries)), judgements


def answers_digest(run: RunFolder, judge: str | None) -> str:
    """Returns 16 hex digits of all that a score of now is computed from: the answers, and the verdicts of a judge.

    Args:
        judge: name of the judge; None where metrics score the run.
    """
    predictions = run.predictions()
    said: list[Any] = [[one.index, one.id, one.pred, one.error] for one in [*predictions, *run.earlier_answers()]]
    if judge is not None:
        items = items_of_questions(predictions)
        stored = judgements_of(run, judge, items.values())
        said += [[item.id, one.value, one.error] for item in items.values() if (one := stored.get(item.id)) is not None]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _entries(run: RunFolder, predictions: Sequence[Prediction]) -> Iterator[Entry]:
    """Yields the planned questions with their states of asking."""
    asked = {prediction.index: prediction for prediction in predictions}
    missing = {record["index"]: record["reason"] for record in run.missing()}
    last = {prediction.index for prediction in last_answers(predictions).values()}
    for planned in run.plan():
        asking, reason = _asking(asked.get(planned.index), missing.get(planned.index))
        if asking is Asking.NOT_ASKED and run.is_imported:
            reason = "the log holds no answer to it"
        yield Entry(
            planned.index,
            planned.id,
            planned.video,
            planned.type,
            asking,
            reason=reason,
            detail=planned.looked_for if asking is Asking.NO_FILE else None,
            repeated=asking in ANSWERS and planned.index not in last,
            similar=_similar(planned) if asking in ANSWERS else None,
            fragile=asked[planned.index].fragile if asking in ANSWERS else None,
        )


def _similar(planned: PlannedQuestion) -> str | None:
    if planned.took is None:
        return None
    return f"looked for {(planned.looked_for or '').removeprefix('not ')}, took {planned.took}"


def _asking(prediction: Prediction | None, missing: str | None) -> tuple[Asking, str | None]:
    """State of asking a question, and why it has no answer."""
    if prediction is not None and prediction.error is None:
        return (Asking.ANSWERED if prediction.pred.strip() else Asking.EMPTY), None
    if missing is not None:
        return Asking.NO_FILE, missing
    if prediction is None or prediction.error is None:
        return Asking.NOT_ASKED, None
    # The reason of an unreadable file begins with its path, which differs between videos.
    _, path, rest = prediction.error.partition(f"{prediction.file}: ")
    reason = rest if prediction.file and path and rest else prediction.error
    if prediction.open:
        return Asking.NOT_ASKED, f"{SECONDS.sub('', reason)}; {ASKED_AGAIN}"
    return Asking.FAILED, reason


def _judged(entry: Entry, judgement: Judgement | None) -> Entry:
    if judgement is None:
        return replace(entry, judging=Judging.NOT_JUDGED)
    reply = judgement.reply
    if judgement.error is not None:
        detail = None if reply is None else _short(repr(reply))
        return replace(entry, judging=Judging.FAILED, reason=judgement.error, detail=detail)
    form = form_of(judgement.item)
    state = form.state(judgement.value)
    reason = {
        Judging.OUT_OF_RANGE: f"the score is outside {form.lowest:g} to {form.highest:g}",
        Judging.UNREADABLE: "the reply holds no score that can be read",
    }.get(state)
    detail = reason and _short(repr(reply or judgement.value))
    return replace(entry, judging=state, reason=reason, detail=detail, lenient=judgement.lenient)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_DETAIL else text[: LONGEST_DETAIL - 3] + "..."
