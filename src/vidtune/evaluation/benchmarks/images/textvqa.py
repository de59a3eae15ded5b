"""TextVQA, validation part: questions about text in pictures, with the tokens that a reader of text has found.

Singh et al., Towards VQA Models That Can Read, CVPR 2019, arXiv:1904.08920. Read are
``llava_textvqa_val_v051_ocr.jsonl``, ``TextVQA_0.5.1_val.json`` (ten people's answers) and the pictures
``train_images/``. The id of a question is that of its picture: with the text of the question, found in the prompt, it
names the answers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.images.base import AskedPicture, MeasuredPictures, pictures_in, question_lines
from vidtune.evaluation.benchmarks.measured import Item, Measured
from vidtune.evaluation.benchmarks.test_set_files import field_of, set_file, value_and_bytes
from vidtune.evaluation.metrics.base import MetricValues, TaskValues
from vidtune.evaluation.metrics.images.short_answers import PEOPLE, soft_accuracy
from vidtune.evaluation.outcome import Metric

QUESTIONS, ANNOTATIONS = "llava_textvqa_val_v051_ocr.jsonl", "TextVQA_0.5.1_val.json"
ACCURACY = "accuracy"
_TOKENS = "Reference OCR token:"
_OLD_FORM = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)


def question_in(prompt: str) -> str | None:
    """Returns the question that a prompt holds, in lower case; None: it has none of the published forms."""
    if prompt.startswith("OCR tokens: "):
        found = _OLD_FORM.search(prompt)
        return found[1].lower() if found else None
    lines = prompt.split("\n")
    if f"{_TOKENS} " in prompt and len(lines) == 3:
        return lines[1 if prompt.startswith(_TOKENS) else 0].lower()
    return lines[0].lower() if len(lines) == 2 else None


@dataclass(frozen=True)
class TextVqa(MeasuredPictures):
    """The test set."""

    def read(self, data: Path) -> tuple[Path, Sequence[AskedPicture], bytes]:
        folder, path = set_file(data, self.folders, (QUESTIONS,), self.title)
        rows, _, content = question_lines(path)
        answers, known = _answers(folder / ANNOTATIONS)
        asked = []
        for index, id, picture, text in rows:
            where, question = f"{path}: entry {index}", question_in(text)
            if question is None:
                raise UserError(f"{where}: 'text' has none of the published forms, so its question is not known")
            if (str(id), question) not in answers:
                raise UserError(f"{where}: {folder / ANNOTATIONS} has no {question!r} about the picture {id}")
            given, bare = answers[str(id), question]
            fields = {"bare": bare}
            asked.append(AskedPicture(where, id, picture, text, given[0], reference={"answers": given}, fields=fields))
        return folder, asked, content + b"\0" + known

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (Metric(ACCURACY, None, of_one=ACCURACY),)

    @property
    def measuring(self) -> dict[str, Any]:
        return {"answers": "normalised as by EvalAI", "accuracy": f"soft, over {PEOPLE} people"}

    def measure(self, items: Sequence[Item]) -> Measured:
        answered = [item for item in items if item.pred is not None]
        kinds = {item.type for item in items}
        return Measured(
            {kind: _values([item for item in answered if item.type == kind]) for kind in kinds},
            {kind: _values([item for item in items if item.type == kind]) for kind in kinds},
        )


def _answers(path: Path) -> tuple[Mapping[tuple[str, str], tuple[list[str], str]], bytes]:
    """(picture, question in lower case) -> the answers of ten people, the question; and the content of the file."""
    if not path.is_file():
        raise UserError(f"{path}: does not exist; it holds the answers")
    value, content = value_and_bytes(path)
    entries = value.get("data") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise UserError(f"{path}: expected an object with a list 'data'")
    answers = {}
    for index, entry in enumerate(entries):
        picture = str(field_of(path, index, entry, "image_id", (str, int)))
        question = field_of(path, index, entry, "question", (str,))
        given = [str(one) for one in field_of(path, index, entry, "answers", (list,))]
        if len(given) != PEOPLE:
            raise UserError(f"{path}: entry {index}: 'answers' holds {len(given)}, expected {PEOPLE}")
        answers[picture, question.lower()] = given, question
    return answers, content


def _values(items: Sequence[Item]) -> TaskValues[int]:
    """Soft accuracy; a question without an answer is worth nothing."""
    worth = [0.0 if item.pred is None else soft_accuracy(item.pred, item.reference["answers"]) for item in items]
    missing = tuple(item.index for item in items if item.pred is None)
    return TaskValues(tuple(item.index for item in items), missing, (), (), {ACCURACY: MetricValues.mean(worth)})


TEXTVQA = TextVqa(
    name="textvqa",
    title="TextVQA, validation",
    source="Singh et al., Towards VQA Models That Can Read, CVPR 2019, arXiv:1904.08920",
    lookup=pictures_in("train_images"),
    folders=("textvqa", "TextVQA"),
    number_ids=False,
    shared_ids=True,
)
