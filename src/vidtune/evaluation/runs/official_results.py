"""Result folders of the published judge scripts: one file ``<id>.json`` per question, or all of them in one file.

Each file is ``[judgement, {"q": question, "a": reference, "pred": prediction}]``; two answers that are judged together
have ``q1``, ``q2``, ``pred1`` and ``pred2``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.judges.base import JudgeItem
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.judgements import judge_items, store_judgements
from vidtune.foreign.documents import read_json


@dataclass(frozen=True, slots=True)
class OfficialResult:
    """One stored judgement with the texts that were judged.

    Args:
        texts: as stored, see `texts_of`; may be empty.
    """

    id: str
    judgement: Any
    texts: Mapping[str, Any]

    def is_about(self, item: JudgeItem) -> bool:
        """Whether exactly the texts of this item were judged."""
        texts = texts_of(item)
        return {key: str(text) for key, text in self.texts.items() if key in texts} == texts


def import_official_results(folder: Path) -> dict[str, OfficialResult]:
    """Returns every ``<id>.json`` of a result folder by id, sorted by name.

    As in the original, results of ids without a prediction are included.

    Raises:
        UserError: no such folder, or a file that is not ``[judgement, texts]``.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of judge results")
    return {path.stem: _read_result(path) for path in sorted(folder.glob("*.json"))}


def adopt_official_results(run_dir: Path, folder: Path, judge: str) -> tuple[int, int]:
    """Store official results as the judgements of a judge of this name.

    Results about other texts than those of the run are left out.

    Returns:
        Number of results about answers of the run, and of those that were not stored before.

    Raises:
        UserError: see `import_official_results`; or none is about an answer of the run.
    """
    items = {item.id: item for item in judge_items(RunFolder(run_dir).predictions())}
    judgements = {}
    for result in import_official_results(folder).values():
        item = items.get(result.id)
        if item and result.is_about(item):
            judgements[result.id] = result.judgement
    if not judgements:
        raise UserError(
            f"{folder}: holds no result about an answer of {run_dir} (id, question, reference and prediction)"
        )
    return len(judgements), store_judgements(run_dir, judge, {"kind": "imported", "name": judge}, judgements)


def texts_of(item: JudgeItem) -> dict[str, str]:
    """The texts of an item as the published scripts store them."""
    if item.second is None:
        return {"q": item.question, "a": item.answer, "pred": item.pred}
    question, pred = item.second
    return {"q1": item.question, "q2": question, "a": item.answer, "pred1": item.pred, "pred2": pred}


def _read_result(path: Path) -> OfficialResult:
    value = read_json(path)
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], dict):
        raise UserError(f"{path}: expected [judgement, texts]; only results of the published judge scripts belong here")
    return OfficialResult(path.stem, value[0], value[1])
