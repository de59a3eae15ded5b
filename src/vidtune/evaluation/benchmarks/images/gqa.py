"""GQA, balanced test-dev: questions that take several steps over the things in a picture, with answers of a word.

Hudson and Manning, GQA, CVPR 2019, arXiv:1902.09506. Read are ``llava_gqa_testdev_balanced.jsonl``,
``data/testdev_balanced_questions.json`` (also in ``data/questions1.2/`` or ``data/questions/``) and the pictures
``data/images/``. Beside a complete run lie ``testdev_balanced_predictions.json`` and ``gqa_report.txt``, what the
published script prints without its lists of choices: validity and plausibility are 0 there.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.images.base import AskedPicture, MeasuredPictures, pictures_in, question_lines
from vidtune.evaluation.benchmarks.measured import Item, Measured
from vidtune.evaluation.benchmarks.test_set_files import set_file, value_and_bytes
from vidtune.evaluation.metrics.base import MetricValues, TaskValues
from vidtune.evaluation.metrics.images.gqa import QUERY, Truth, report, said, truth_of
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.question import Prediction, QuestionSet

QUESTIONS, ANNOTATIONS = "llava_gqa_testdev_balanced.jsonl", "testdev_balanced_questions.json"
PLACES = ("data", "data/questions1.2", "data/questions", "")
PREDICTIONS, REPORT = "testdev_balanced_predictions.json", "gqa_report.txt"
ACCURACY, BINARY, OPEN = "accuracy", "binary", "open"
_UNBALANCED = "the published scorer counts balanced questions only"


@dataclass(frozen=True)
class Gqa(MeasuredPictures):
    """The test set."""

    server: str = "the GQA challenge on eval.ai"
    upload_file: str = f"data/{PREDICTIONS}"
    answers_file: str = "answers/llava_gqa_testdev_balanced/{model}/{file}"

    def read(self, data: Path) -> tuple[Path, Sequence[AskedPicture], bytes]:
        folder, path = set_file(data, self.folders, (QUESTIONS,), self.title)
        rows, _, content = question_lines(path)
        known = next((one for place in PLACES if (one := folder / place / ANNOTATIONS).is_file()), None)
        if known is None:
            raise UserError(f"{folder / PLACES[0] / ANNOTATIONS}: does not exist; it holds the answers")
        entries, annotations = value_and_bytes(known)
        if not isinstance(entries, dict):
            raise UserError(f"{known}: expected an object of questions, found {type(entries).__name__}")
        asked = []
        for index, id, picture, text in rows:
            where = f"{path}: entry {index}"
            if str(id) not in entries:
                raise UserError(f"{where}: {known} has no question {id!r}")
            try:
                truth = truth_of(entries[str(id)])
            except (KeyError, TypeError) as error:
                raise UserError(f"{known}: question {id!r} has no {error}, or it has another form") from None
            asked.append(AskedPicture(where, id, picture, text, truth.answer, truth.structural, asdict(truth)))
        return folder, asked, content + b"\0" + annotations

    def submission(self, predictions: Sequence[Prediction], questions: QuestionSet) -> bytes:
        return _upload(predictions).encode()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        accuracy = Metric(ACCURACY, None, right_or_wrong=True)
        return accuracy, *(Metric(name, None, of_all=True) for name in (BINARY, OPEN))

    @property
    def measuring(self) -> dict[str, Any]:
        return {"answers": "in lower case, without periods at the end", "counted": "balanced questions"}

    def measure(self, items: Sequence[Item]) -> Measured:
        official, strict = {}, {}
        for kind in dict.fromkeys(item.type for item in items):
            mine = [item for item in items if item.type == kind]
            balanced = [item for item in mine if item.reference["balanced"]]
            official[kind] = _values([item for item in balanced if item.pred is not None], mine)
            strict[kind] = _values(balanced, mine)
        return Measured(official, strict)

    def official_files(
        self, predictions: Sequence[Prediction], references: Mapping[int, Mapping[str, Any]]
    ) -> Iterator[tuple[str, str]]:
        yield from super().official_files(predictions, references)
        answers = {one.index: said(one.pred) for one in predictions if one.error is None}
        yield PREDICTIONS, _upload(predictions)
        truths = {index: Truth(**one) for index, one in references.items()}
        counted = [index for index, truth in truths.items() if truth.balanced]
        if all(index in answers for index in counted):  # the published script stops where an answer is missing
            printed = report([truths[index] for index in counted], [answers[index] for index in counted])
            yield REPORT, printed + "\n"


def _upload(predictions: Sequence[Prediction]) -> str:
    """The answers in the form that the published script, and the server of the challenge, read."""
    answered = [one for one in predictions if one.error is None]
    return json.dumps([{"questionId": one.id, "prediction": said(one.pred)} for one in answered])


def _values(items: Sequence[Item], all_items: Sequence[Item]) -> TaskValues[int]:
    """Shares of right answers to questions of one structural type; one without an answer is wrong."""
    right = [item.pred is not None and said(item.pred) == item.reference["answer"] for item in items]
    accuracy = MetricValues.mean([float(one) for one in right])
    others = {item.index: _UNBALANCED for item in all_items if not item.reference["balanced"] and item.pred is not None}
    part = OPEN if all_items[0].reference["structural"] == QUERY else BINARY
    return TaskValues(
        tuple(item.index for item in items),
        tuple(item.index for item in items if item.pred is None),
        (),
        (),
        {ACCURACY: accuracy, part: accuracy},
        others,
    )


GQA = Gqa(
    name="gqa",
    title="GQA, balanced test-dev",
    source="Hudson and Manning, GQA, CVPR 2019, arXiv:1902.09506",
    lookup=pictures_in("data/images"),
    folders=("gqa", "GQA"),
    number_ids=False,
)
