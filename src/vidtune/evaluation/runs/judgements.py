"""Judgements in the folder of a run: one file per judge, and the identity of that judge beside it.

``judgements/<judge>.jsonl`` gets one line per judged answer, with the whole reply of a judge that was asked;
``judgements/<judge>.judge.json`` says who that judge is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.judges.base import JudgeItem, Judgement
from vidtune.evaluation.judges.prompts import VIDEO_QA, prompt_of
from vidtune.evaluation.judges.replies import LENIENT, ReplyForm, UnparsableReply
from vidtune.evaluation.question import Prediction
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.foreign.documents import read_object
from vidtune.machine.files import write_json_atomically
from vidtune.machine.records import RecordWriter, read_as


def last_answers(predictions: Sequence[Prediction]) -> dict[str, Prediction]:
    """Returns the last answer to each official id, in the order of the first: published scripts judge an id once."""
    return {prediction.id: prediction for prediction in predictions if prediction.error is None}


def judge_items(predictions: Sequence[Prediction]) -> list[JudgeItem]:
    """Returns what is judged: one item per official id.

    Of a repeated id the last text counts, as in the published scripts.
    """
    return [_item(id, last) for id, last in last_answers(predictions).items()]


def items_of_questions(predictions: Sequence[Prediction]) -> dict[int, JudgeItem]:
    """Returns what is judged by question index: one item per answer.

    The items of `judge_items` keep the official id. An answer whose id is answered again later has an item of its own,
    which is in no official value.
    """
    last = last_answers(predictions)
    items = {}
    for prediction in (one for one in predictions if one.error is None):
        name = prediction.id
        if last[name].index != prediction.index:
            name = f"{name}#{prediction.index}"
            while name in last:
                name += "#"
        items[prediction.index] = _item(name, prediction)
    return items


def _item(name: str, prediction: Prediction) -> JudgeItem:
    second = prediction.second
    return JudgeItem(
        name,
        prediction.question,
        str(prediction.answer),
        prediction.pred,
        second=None if second is None else (second["question"], second["pred"]),
        prompt=prediction.judge_prompt,
        texts=prediction.judge_texts or {},
        further_answers=tuple(map(str, prediction.further_answers or ())),
    )


def items_to_judge(predictions: Sequence[Prediction]) -> list[JudgeItem]:
    """Returns every item: those of `judge_items`, then those of repeated ids."""
    published = judge_items(predictions)
    return list({item.id: item for item in [*published, *items_of_questions(predictions).values()]}.values())


def judgements_of(run: RunFolder, judge: str, items: Iterable[JudgeItem]) -> dict[str, Judgement]:
    """Returns the stored judgements of these items by their id. A judgement of another text is left out.

    A raw reply is read anew by the rules of today; one that could not be read before may be readable now.
    """
    known = {item.id: item for item in items}
    found: dict[str, Judgement] = {}
    identity = _identity_file(run, judge)
    lenient = identity.exists() and read_object(identity).get("replies") == LENIENT

    def read(record: Mapping[str, Any]) -> Judgement | None:
        item = known.get(record.get("id", ""))
        if item is None or any(record.get(name) != text for name, text in _texts(item).items()):
            return None
        return _stored(item, record, lenient)

    for judgement in read_as(judgements_file(run, judge), read):
        if judgement is not None:
            id = judgement.item.id
            if usable(judgement) or id not in found or not usable(found[id]):
                found[id] = judgement
    return found


def _stored(item: JudgeItem, record: Mapping[str, Any], lenient: bool) -> Judgement:
    stored = Judgement(
        item, record.get("judgement"), record.get("error"), record.get("attempts", 0), record.get("reply")
    )
    if stored.reply is None:
        return stored
    try:
        value, overlooked = form_of(item).reading(stored.reply, lenient)
        return replace(stored, value=value, error=None, lenient=overlooked)
    except UnparsableReply as error:
        return replace(stored, value=None, error=stored.error or f"unreadable reply: {error}")


def usable(judgement: Judgement) -> bool:
    """Whether there is a verdict that counts. A judge is asked again about answers without one."""
    return judgement.error is None and form_of(judgement.item).counts(judgement.value)


def form_of(item: JudgeItem) -> ReplyForm:
    """Returns the form in which an item is judged."""
    return prompt_of(item, VIDEO_QA).form


def judge_identity(run: RunFolder, judge: str) -> dict[str, Any]:
    """Returns the identity of the judge of this name.

    Raises:
        UserError: it has judged nothing here.
    """
    path = _identity_file(run, judge)
    if not path.exists():
        there = judges_of(run)
        known = f"there are {', '.join(there)}" if there else "nothing was judged yet"
        raise UserError(f"{run.path}: no judgements by {judge!r}; {known}")
    return read_object(path)


def judges_of(run: RunFolder) -> list[str]:
    """Returns the names of the judges that have judged answers of a run."""
    found = (run.path / "judgements").glob("*.judge.json")
    return sorted(file.name.removesuffix(".judge.json") for file in found)


def store_judgements(run_dir: Path, name: str, identity: Mapping[str, Any], judgements: Mapping[str, Any]) -> int:
    """Store judgements made elsewhere, by id. Judgements of ids that the run has not answered are left out.

    Returns:
        Number of judgements stored.
    """
    run = RunFolder(run_dir)
    require_identity(run, name, dict(identity))
    with RecordWriter(judgements_file(run, name)) as records:
        items = judge_items(run.predictions())
        known = judgements_of(run, name, items)
        new = [Judgement(item, judgements[item.id]) for item in items if item.id in judgements and item.id not in known]
        for judgement in new:
            records.append(judgement_record(judgement))
    return len(new)


def judgement_record(judgement: Judgement) -> dict[str, Any]:
    """Returns the line of a judgement in ``judgements/<judge>.jsonl``."""
    item = judgement.item
    record = {"id": item.id} | {name: text for name, text in _texts(item).items() if text is not None}
    outcome = {"judgement": judgement.value} if judgement.error is None else {"error": judgement.error}
    reply = {} if judgement.reply is None else {"reply": judgement.reply}
    lenient = {"lenient": list(judgement.lenient)} if judgement.lenient else {}
    return record | outcome | {"attempts": judgement.attempts} | reply | lenient


def _texts(item: JudgeItem) -> dict[str, Any]:
    """What is judged, as it is stored."""
    second = None if item.second is None else list(item.second)
    found = {"question": item.question, "answer": item.answer, "pred": item.pred, "second": second}
    return found | {"texts": dict(item.texts) or None, "further_answers": list(item.further_answers) or None}


def require_identity(run: RunFolder, name: str, identity: dict[str, Any]) -> None:
    """Store who the judge of this name is.

    Raises:
        UserError: another judge already has the name.
    """
    path = _identity_file(run, name)
    if path.exists() and read_object(path) != identity:
        raise UserError(f"{path}: another judge already has the name {name!r}; give this one another name")
    if not path.exists():
        write_json_atomically(path, identity)


def judgements_file(run: RunFolder, judge: str) -> Path:
    """Path of the file that holds the judgements of a judge."""
    return run.path / "judgements" / f"{judge}.jsonl"


def _identity_file(run: RunFolder, judge: str) -> Path:
    return run.path / "judgements" / f"{judge}.judge.json"
