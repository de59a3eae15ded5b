"""VQA v2 and VizWiz: open questions with short answers, whose reference answers only a server knows.

- VQA v2, test-dev: Goyal et al., Making the V in VQA Matter, CVPR 2017, arXiv:1612.00837. Read is
  ``llava_vqav2_mscoco_test-dev2015.jsonl``; the upload holds every question of ``..._test2015.jsonl``, also those that
  were not asked, with an empty answer;
- VizWiz, test: Gurari et al., VizWiz Grand Challenge, CVPR 2018, arXiv:1802.08218. Read is ``llava_test.jsonl``; the
  server needs an answer to every question.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.images.base import AskedPicture, MeasuredPictures, pictures_in, question_lines
from vidtune.evaluation.benchmarks.measured import Item, Measured
from vidtune.evaluation.benchmarks.test_set_files import field_of, read_list, set_file
from vidtune.evaluation.metrics.base import TaskValues
from vidtune.evaluation.metrics.images.short_answers import normalised
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.question import Prediction, QuestionSet

ACCURACY = "accuracy"
WHOLE_VQA_V2 = "llava_vqav2_mscoco_test2015.jsonl"


@dataclass(frozen=True)
class ServedAnswers(MeasuredPictures):
    """A set whose answers are uploaded.

    Args:
        questions: name of the question file.
        server: where its answers are uploaded.
        upload_file: where the published script writes the upload, below the folder of the set.
        answers_file: where it reads the answers.
    """

    questions: str = ""
    server: str = ""
    upload_file: str = "answers_upload/{model}.json"
    answers_file: str = "answers/{model}.jsonl"

    def read(self, data: Path) -> tuple[Path, Sequence[AskedPicture], bytes]:
        folder, path = set_file(data, self.folders, (self.questions,), self.title)
        rows, _, content = question_lines(path)
        asked = [
            AskedPicture(f"{path}: entry {index}", id, picture, text, reference={}) for index, id, picture, text in rows
        ]
        return folder, asked, content

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (Metric(ACCURACY, None),)

    @property
    def measuring(self) -> dict[str, Any]:
        return {"server": self.server}

    def measure(self, items: Sequence[Item]) -> Measured:
        why = f"its reference answers are not public: `vidtune submit RUN` writes the file that {self.server} takes"
        kinds = {item.type: TaskValues[int]((), (), (), (), {}) for item in items}
        return Measured(kinds, kinds, {ACCURACY: why})


@dataclass(frozen=True)
class VqaV2(ServedAnswers):
    """VQA v2."""

    def submission(self, predictions: Sequence[Prediction], questions: QuestionSet) -> bytes:
        path = questions.folder / WHOLE_VQA_V2
        if not path.is_file():
            raise UserError(f"{path}: does not exist; the server takes an answer to every question of test2015")
        entries, _ = read_list(path)
        answers = {one.id: normalised(one.pred) for one in predictions if one.error is None}
        ids = [field_of(path, index, entry, "question_id", (str, int)) for index, entry in enumerate(entries)]
        unknown = sorted(set(answers) - set(map(str, ids)))
        if unknown:
            raise UserError(f"{path}: has no question {unknown[0]}, which was asked; it must hold every question")
        return json.dumps([{"question_id": id, "answer": answers.get(str(id), "")} for id in ids]).encode()


@dataclass(frozen=True)
class VizWiz(ServedAnswers):
    """VizWiz."""

    def submission(self, predictions: Sequence[Prediction], questions: QuestionSet) -> bytes:
        asked = questions.questions
        answers = {one.index: normalised(one.pred) for one in predictions if one.error is None}
        lacking = [one.id for one in asked if one.index not in answers]
        if lacking:
            raise UserError(
                f"{self.name}: {len(lacking)} of {len(asked)} questions have no answer ({', '.join(lacking[:3])}); "
                f"{self.server} needs all: evaluate the rest, or ask failed ones again with --retry-failed"
            )
        return json.dumps([{"image": one.video, "answer": answers[one.index]} for one in asked]).encode()


_SPLIT = "llava_vqav2_mscoco_test-dev2015"
VQA_V2 = VqaV2(
    name="vqa_v2",
    title="VQA v2, test-dev",
    source="Goyal et al., Making the V in VQA Matter, CVPR 2017, arXiv:1612.00837",
    lookup=pictures_in("test2015"),
    folders=("vqav2", "vqa_v2", "VQAv2"),
    questions=f"{_SPLIT}.jsonl",
    server="the VQA challenge on eval.ai",
    upload_file=f"answers_upload/{_SPLIT}/{{model}}.json",
    answers_file=f"answers/{_SPLIT}/{{model}}/{{file}}",
)
VIZWIZ = VizWiz(
    name="vizwiz",
    title="VizWiz, test",
    source="Gurari et al., VizWiz Grand Challenge, CVPR 2018, arXiv:1802.08218",
    lookup=pictures_in("test"),
    folders=("vizwiz", "VizWiz"),
    number_ids=False,
    questions="llava_test.jsonl",
    server="the VizWiz challenge on eval.ai",
)
