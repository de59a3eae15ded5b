"""Judge the stored predictions of a run: a separate pass that can be repeated with any judge, and resumed.

``judgements/<judge>.jsonl`` gets one line per judged id; ``judgements/<judge>.judge.json`` says who that judge is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.judges import DEFAULT_JUDGE, get_judge
from vidtune.evaluation.judges.base import ExpectedUsage, Judge, JudgeItem, Judgement, Usage
from vidtune.evaluation.progress import progress_bar
from vidtune.evaluation.runs.folder import Prediction, RunFolder
from vidtune.machine.files import read_object, write_text_atomically
from vidtune.machine.records import RecordWriter, read_records


@dataclass(frozen=True)
class JudgingSummary:
    """What one judging pass did.

    Args:
        judge: the judge's name.
        items: answers that have a judgement or were asked for one.
        reused: judgements of this judge that were stored before.
        unjudged: answers without a judgement after all attempts.
        reasons: why, and how often.
    """

    judge: str
    items: int
    reused: int
    unjudged: int
    reasons: Mapping[str, int]
    usage: Usage


def judge_run(run_dir: Path, judge: Judge | str = DEFAULT_JUDGE, *, progress: bool = True) -> JudgingSummary:
    """Judge every answer of a run that this judge has not judged yet; what was left unjudged before is tried again.

    Raises:
        UserError: no run there, another judge already uses the name, or whatever the judge refuses.
    """
    judge = get_judge(judge) if isinstance(judge, str) else judge
    run = RunFolder(run_dir)
    items = judge_items(run.predictions())
    _require_same_judge(run, judge)
    with RecordWriter(_judgements_file(run, judge.name)) as records:
        known = judgements_of(run, judge.name)
        pending = [item for item in items if item.id not in known or known[item.id].error is not None]
        reasons: dict[str, int] = {}
        with progress_bar(f"judging with {judge.name}", len(pending), enabled=progress) as advance:

            def store(judgement: Judgement) -> None:
                records.append(_record(judgement))
                if judgement.error is not None:
                    reasons[judgement.error] = reasons.get(judgement.error, 0) + 1
                advance()

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
    """What `judge_run` would take; asks nobody."""
    run = RunFolder(run_dir)
    known = judgements_of(run, judge.name)
    items = judge_items(run.predictions())
    return judge.estimate([item for item in items if item.id not in known or known[item.id].error is not None])


def judge_items(predictions: Sequence[Prediction]) -> list[JudgeItem]:
    """What is judged: one item per official id; of repeated ids the last text counts, as in the published scripts."""
    latest = {
        prediction.id: JudgeItem(prediction.id, prediction.question, str(prediction.answer), prediction.pred)
        for prediction in predictions
        if prediction.error is None
    }
    return list(latest.values())


def judgements_of(run: RunFolder, judge: str) -> dict[str, Judgement]:
    """Stored judgements by id, of the texts as they are now; a judgement of another text does not count."""
    items = {item.id: item for item in judge_items(run.predictions())}
    found: dict[str, Judgement] = {}
    for record in read_records(_judgements_file(run, judge)):
        item = items.get(record.get("id", ""))
        texts = (record.get("question"), record.get("answer"), record.get("pred"))
        if item is None or texts != (item.question, item.answer, item.pred):
            continue
        judgement = Judgement(item, record.get("judgement"), record.get("error"), record.get("attempts", 0))
        if judgement.error is None or item.id not in found or found[item.id].error is not None:
            found[item.id] = judgement
    return found


def judge_identity(run: RunFolder, judge: str) -> dict[str, Any]:
    """Who the judge of this name is; raises UserError when it has judged nothing here."""
    path = _identity_file(run, judge)
    if not path.exists():
        there = sorted(file.name.removesuffix(".judge.json") for file in path.parent.glob("*.judge.json"))
        known = f"there are {', '.join(there)}" if there else "nothing was judged yet"
        raise UserError(f"{run.path}: no judgements by {judge!r}; {known}")
    return read_object(path)


def store_judgements(run_dir: Path, name: str, identity: Mapping[str, Any], judgements: Mapping[str, Any]) -> int:
    """Take over judgements made elsewhere, by id; those of ids that the run has not answered are left out.

    Returns:
        How many were stored.
    """
    run = RunFolder(run_dir)
    _require_identity(run, name, dict(identity))
    with RecordWriter(_judgements_file(run, name)) as records:
        known = judgements_of(run, name)
        new = [
            Judgement(item, judgements[item.id])
            for item in judge_items(run.predictions())
            if item.id in judgements and item.id not in known
        ]
        for judgement in new:
            records.append(_record(judgement))
    return len(new)


def _record(judgement: Judgement) -> dict[str, Any]:
    item = judgement.item
    record = {"id": item.id, "question": item.question, "answer": item.answer, "pred": item.pred}
    outcome = {"judgement": judgement.value} if judgement.error is None else {"error": judgement.error}
    return record | outcome | {"attempts": judgement.attempts}


def _require_same_judge(run: RunFolder, judge: Judge) -> None:
    _require_identity(run, judge.name, judge.identity)


def _require_identity(run: RunFolder, name: str, identity: dict[str, Any]) -> None:
    path = _identity_file(run, name)
    if path.exists() and read_object(path) != identity:
        raise UserError(f"{path}: another judge already has the name {name!r}; give this one another name")
    if not path.exists():
        write_text_atomically(path, json.dumps(identity, indent=1) + "\n")


def _judgements_file(run: RunFolder, judge: str) -> Path:
    return run.path / "judgements" / f"{judge}.jsonl"


def _identity_file(run: RunFolder, judge: str) -> Path:
    return run.path / "judgements" / f"{judge}.judge.json"
