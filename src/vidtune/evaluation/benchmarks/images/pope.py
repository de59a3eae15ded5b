"""POPE: is there such a thing in the picture? Yes or no, for things chosen at random, popular or adversarial.

Li et al., Evaluating Object Hallucination in Large Vision-Language Models, EMNLP 2023, arXiv:2305.10355. Read are
``llava_pope_test.jsonl`` (each question with its ``category``), ``coco/coco_pope_<category>.json`` (JSON lines with
``label``) and the pictures ``val2014/``. Labels belong to the questions of their category in the order of the file.

Published is mostly the mean of the three F1; accuracy, precision, recall and the share of "yes" stand beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.images.base import (
    SHORT_ANSWER,
    AskedPicture,
    MeasuredPictures,
    pictures_in,
    question_lines,
)
from vidtune.evaluation.benchmarks.measured import Item, Measured
from vidtune.evaluation.benchmarks.test_set_files import field_of, read_lines, set_file
from vidtune.evaluation.metrics.base import MetricValues, TaskValues
from vidtune.evaluation.metrics.images.yes_no import (
    NO,
    YES,
    confusion,
    f1_of,
    mean_over_categories,
    precision_of,
    recall_of,
    said_in_pope,
    yes_ratio_of,
)
from vidtune.evaluation.outcome import Metric

QUESTIONS, LABELS = "llava_pope_test.jsonl", "coco/coco_pope_{category}.json"
ACCURACY, F1, MEAN_F1 = "accuracy", "F1", "mean F1"
OF_COUNTS = {F1: f1_of, "precision": precision_of, "recall": recall_of, "yes ratio": yes_ratio_of}
_MEAN_F1 = mean_over_categories(f1_of)


@dataclass(frozen=True)
class Pope(MeasuredPictures):
    """The test set."""

    def read(self, data: Path) -> tuple[Path, Sequence[AskedPicture], bytes]:
        folder, path = set_file(data, self.folders, (QUESTIONS,), self.title)
        rows, entries, content = question_lines(path)
        kinds = [field_of(path, index, entry, "category", (str,)) for index, entry in enumerate(entries)]
        labels = {kind: _Labels(folder / LABELS.format(category=kind), kind) for kind in dict.fromkeys(kinds)}
        asked = []
        for (index, id, picture, text), kind in zip(rows, kinds, strict=True):
            where = f"{path}: entry {index}"
            label = labels[kind].next(where, picture, text)
            bare = {"bare": text.removesuffix(SHORT_ANSWER).strip()}
            asked.append(AskedPicture(where, id, picture, text, label, kind, {"label": label}, fields=bare))
        for one in labels.values():
            one.require_used(path)
        return folder, asked, b"\0".join([content, *(one.content for one in labels.values())])

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric(ACCURACY, None, right_or_wrong=True),
            *(Metric(name, None, from_sums=of_counts) for name, of_counts in OF_COUNTS.items()),
            Metric(MEAN_F1, None, from_sums=_MEAN_F1, of_all=True),
        )

    @property
    def measuring(self) -> dict[str, Any]:
        return {"answers": "yes, unless a word before the first period is No, no or not"}

    def measure(self, items: Sequence[Item]) -> Measured:
        kinds = list(dict.fromkeys(item.type for item in items))
        official, strict = {}, {}
        for place, kind in enumerate(kinds):
            mine = [item for item in items if item.type == kind]
            official[kind] = _values([item for item in mine if item.pred is not None], place, len(kinds))
            strict[kind] = _values(mine, place, len(kinds))
        return Measured(official, strict)


class _Labels:
    """The labels of one category, in the order of its questions."""

    def __init__(self, path: Path, kind: str) -> None:
        if not path.is_file():
            raise UserError(f"{path}: does not exist; it holds the labels of the {kind} questions")
        self.path = path
        self.entries, self.content = read_lines(path)
        self.used = 0

    def next(self, where: str, picture: str, text: str) -> str:
        """The label of the next question. Raises UserError if it is that of another one, or there is none."""
        if self.used == len(self.entries):
            raise UserError(f"{where}: {self.path} has no label left: it has {len(self.entries)}")
        entry, number = self.entries[self.used], self.used
        label = field_of(self.path, number, entry, "label", (str,))
        asked, of = (field_of(self.path, number, entry, key, (str,)) for key in ("text", "image"))
        if of != picture or not text.startswith(asked.strip()):
            shown = text.partition("\n")[0]
            raise UserError(
                f"{self.path}: entry {number} asks {asked!r} about {of}, but {where} {shown!r} about "
                f"{picture}; put both files in the same order"
            )
        if label not in (YES, NO):
            raise UserError(f"{self.path}: entry {number}: 'label' is {label!r}, expected yes or no")
        self.used += 1
        return label

    def require_used(self, questions: Path) -> None:
        """Raises UserError if labels are left."""
        if self.used != len(self.entries):
            raise UserError(f"{self.path}: has {len(self.entries)} labels for {self.used} questions of {questions}")


def _values(items: Sequence[Item], place: int, categories: int) -> TaskValues[int]:
    """The values of a category, with its part in the mean over categories; a question without an answer is wrong."""
    counts = np.array([_counts(item) for item in items], dtype=np.float64).reshape(-1, 4)
    right = counts[:, 0] + counts[:, 2]
    rows = np.zeros((len(items), 4 * categories))
    rows[:, 4 * place : 4 * place + 4] = counts
    metrics = {
        ACCURACY: MetricValues.mean(right),
        **{name: MetricValues(right, counts, of_counts) for name, of_counts in OF_COUNTS.items()},
        MEAN_F1: MetricValues(right, rows, _MEAN_F1),
    }
    ids = tuple(item.index for item in items)
    return TaskValues(ids, tuple(item.index for item in items if item.pred is None), (), (), metrics)


def _counts(item: Item) -> tuple[float, float, float, float]:
    label = item.reference["label"]
    if item.pred is None:  # a wrong answer, whatever the label is
        return confusion(YES if label == NO else NO, label)
    return confusion(said_in_pope(item.pred), label)


POPE = Pope(
    name="pope",
    title="POPE",
    source="Li et al., Evaluating Object Hallucination in Large Vision-Language Models, arXiv:2305.10355",
    lookup=pictures_in("val2014"),
    folders=("pope", "POPE"),
)
