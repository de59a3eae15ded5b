"""ScienceQA: school questions with options; half of them are about a picture, the others are asked without one.

Lu et al., Learn to Explain, NeurIPS 2022, arXiv:2209.09513. Read are ``llava_test_CQM-A.json`` (conversations as the
scripts of LLaVA write them), ``problems.json``, ``pid_splits.json`` and the pictures ``images/test/<id>/image.png``.

Published is the accuracy over the split, in which a problem without an answer is wrong, and that over the answered
problems with a picture (IMG-accuracy, "SQA-I").
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.images.base import AskedPicture, MeasuredPictures, pictures_in
from vidtune.evaluation.benchmarks.measured import Item, Measured
from vidtune.evaluation.benchmarks.multiple_choice.base import ANSWER_BY_LETTER
from vidtune.evaluation.benchmarks.test_set_files import each_once, field_of, read_list, set_file, value_and_bytes
from vidtune.evaluation.metrics.base import MetricValues, TaskValues, mean_of_sums
from vidtune.evaluation.metrics.choices import ACCURACY, READERS, Choice, score_choices
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.protocol import ChoiceRules, GenerationRules, Protocol
from vidtune.evaluation.question import Prediction

QUESTIONS, PROBLEMS, SPLITS, SPLIT = "llava_test_CQM-A.json", "problems.json", "pid_splits.json", "test"
LETTERS = ascii_uppercase[:5]
PICTURE_ACCURACY = "IMG-accuracy"
PICTURE = "<image>"
_SAID = re.compile(r"The answer is ([A-Z]).")


def opening_letter(answer: str, options: Sequence[str]) -> str | None:
    """The letter that an answer is, or begins with ("B. ..."), or that it calls the answer, exactly once.

    "The answer is B" without a character behind it is no answer, as published.
    """
    if answer in LETTERS and len(answer) == 1:
        return answer
    if len(answer) >= 3 and answer[0] in LETTERS and answer[1:3] == ". ":
        return answer[0]
    said = _SAID.findall(answer)
    return said[0] if len(said) == 1 else None


@dataclass(frozen=True)
class ScienceQA(MeasuredPictures):
    """The test set."""

    choices: ChoiceRules = field(
        default_factory=lambda: ChoiceRules(wording=f"{{question}}\n{ANSWER_BY_LETTER}", option="{letter}")
    )
    reads: str = opening_letter.__name__

    def read(self, data: Path) -> tuple[Path, Sequence[AskedPicture], bytes]:
        folder, path = set_file(data, self.folders, (QUESTIONS,), self.title)
        entries, content = read_list(path)
        problems, problem_bytes = value_and_bytes(folder / PROBLEMS)
        splits, split_bytes = value_and_bytes(folder / SPLITS)
        listed = splits.get(SPLIT) if isinstance(splits, dict) else None
        if not isinstance(listed, list) or not isinstance(problems, dict):
            raise UserError(f"{folder}: {SPLITS} has no list {SPLIT!r}, or {PROBLEMS} is no object of problems by id")
        wanted = [str(one) for one in listed]
        ids = [str(field_of(path, index, entry, "id", (str, int))) for index, entry in enumerate(entries)]
        named = zip(ids, enumerate(entries), strict=True)
        conversations = each_once(((f"{path}: entry {one[0]}", id, one) for id, one in named), "'id'")
        lacking = [id for id in wanted if id not in problems or id not in conversations]
        if lacking:
            raise UserError(
                f"{path}: {len(lacking)} problems of {SPLITS} are not there, or not in {PROBLEMS}: {lacking[0]}"
            )
        asked = [_asked(path, conversations[id], id, folder / PROBLEMS, problems[id]) for id in wanted]
        return folder, asked, b"\0".join([content, problem_bytes, split_bytes])

    def further_rules(self) -> dict[str, Any]:
        return {**super().further_rules(), "choices": self.choices}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return Metric(ACCURACY, None, right_or_wrong=True), Metric(PICTURE_ACCURACY, None, of_all=True)

    @property
    def measuring(self) -> dict[str, Any]:
        return {"letters": self.reads, "without an answer": "wrong, and without a picture"}

    def under(self, protocol: Protocol) -> "ScienceQA":
        return replace(self, reads="alone") if protocol.by_likelihood else self

    def measure(self, items: Sequence[Item]) -> Measured:
        kinds = dict.fromkeys(item.type for item in items)
        official, strict = {}, {}
        for kind in kinds:
            mine = [item for item in items if item.type == kind]
            official[kind] = self._values(mine, strict=False)
            strict[kind] = self._values(mine, strict=True)
        return Measured(official, strict)

    def _values(self, items: Sequence[Item], strict: bool) -> TaskValues[int]:
        reader = opening_letter if self.reads == opening_letter.__name__ else READERS[self.reads]
        truths = {item.index: Choice(item.reference["letter"], tuple(item.reference["options"])) for item in items}
        answers = {item.index: item.pred for item in items if item.pred is not None}
        # The published script also counts problems without an answer, but not among those with a picture.
        found = score_choices(answers, truths, reader, strict=True)
        pictured = np.array([item.reference["picture"] and (strict or item.pred is not None) for item in items], float)
        right = found.metrics[ACCURACY].per_item
        rows = np.stack([right * pictured, pictured], axis=-1)
        return replace(found, metrics={**found.metrics, PICTURE_ACCURACY: MetricValues(right, rows, mean_of_sums)})

    def official_records(
        self, predictions: Sequence[Prediction], references: Mapping[int, Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        pictured = {self.official_id(one.id) for one in predictions if references[one.index]["picture"]}
        for record in super().official_records(predictions, references):
            tag = f"{PICTURE}\n" if record["question_id"] in pictured else ""
            yield {**record, "prompt": tag + record["prompt"]}


def _asked(path: Path, told: tuple[int, Any], id: str, problems: Path, problem: Any) -> AskedPicture:
    index, entry = told
    turns = field_of(path, index, entry, "conversations", (list,))
    text = turns[0].get("value") if turns and isinstance(turns[0], dict) else None
    if not isinstance(text, str):
        raise UserError(f"{path}: entry {index}: 'conversations' begins with no text")
    if not isinstance(problem, dict) or not isinstance(problem.get("choices"), list):
        raise UserError(f"{problems}: problem {id} has no list 'choices'")
    options, right = tuple(map(str, problem["choices"])), problem.get("answer")
    if type(right) is not int or not 0 <= right < min(len(options), len(ascii_uppercase)):
        raise UserError(f"{problems}: problem {id}: 'answer' is {right!r}, expected the place of one of its choices")
    letter = ascii_uppercase[right]
    picture = entry.get("image")
    kind = problem.get("subject")
    return AskedPicture(
        f"{path}: entry {index}",
        id,
        None if picture is None else str(picture),
        text.replace(PICTURE, "").strip(),
        letter,
        kind if isinstance(kind, str) else None,
        {"letter": letter, "options": list(options), "picture": picture is not None},
        options=options,
    )


SCIENCE_QA = ScienceQA(
    name="science_qa_img",
    title="ScienceQA, test, with IMG-accuracy",
    source="Lu et al., Learn to Explain, NeurIPS 2022, arXiv:2209.09513; question file of LLaVA",
    lookup=pictures_in("images/test"),
    folders=("scienceqa", "ScienceQA"),
    number_ids=False,
    generation=GenerationRules(),
    system_rules={"video_llava": {"prompt_format": "vicuna_v1", "preprocessing": {"pad_to_square": False}}},
)
