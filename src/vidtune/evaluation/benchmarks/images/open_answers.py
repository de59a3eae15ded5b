"""Open answers about pictures, which a chat model judges: LLaVA-Bench in the Wild, and MM-Vet.

- LLaVA-Bench in the Wild: Liu et al., Visual Instruction Tuning, arXiv:2304.08485. Read are ``questions.jsonl``,
  ``answers_gpt4.jsonl`` (the reference answers), ``context.jsonl`` (a description of each picture) and ``images/``. The
  judge gives both answers 1 to 10. Published is the mean of the model's over the mean of the reference answers'.
- MM-Vet: Yu et al., arXiv:2308.02490. Read are ``llava-mm-vet.jsonl``, ``mm-vet.json`` (``v1_<id>``: question, answer,
  capabilities) and ``images/``. The judge gives 0 to 1. Published is the mean, over all questions, those of each
  capability and those of each set of capabilities.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.images.base import (
    AskedPicture,
    PictureQuestions,
    answer_id,
    pictures_in,
    question_lines,
)
from vidtune.evaluation.benchmarks.judge_prompts.images import (
    CONTEXT,
    CORRECTNESS_OF_PARTS,
    CORRECTNESS_OF_PARTS_PROMPT,
    ELEMENTS,
    HIGHEST_OF_PAIR,
    LOWEST_OF_PAIR,
    PAIR_REVIEW,
    set_apart,
)
from vidtune.evaluation.benchmarks.test_set_files import each_once, field_of, read_list, set_file, value_and_bytes
from vidtune.evaluation.judged_values import JudgedValues, score_sum
from vidtune.evaluation.judges.base import Judgement
from vidtune.evaluation.judges.replies import Verdict
from vidtune.evaluation.outcome import Metric
from vidtune.evaluation.protocol import GenerationRules
from vidtune.evaluation.question import Prediction, QuestionSet

REFERENCES = "answers_gpt4.jsonl"
RELATIVE, REFERENCE, ANSWER = "relative_score", "reference_score", "answer_score"
TOTAL = "score"
ANNOTATIONS = "mm-vet.json"
CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
OPEN_RULES = {"video_llava": {"prompt_format": "vicuna_v1", "preprocessing": {"pad_to_square": False}}}


def _relative(sums: np.ndarray) -> np.ndarray:
    """Mean score of the answers over that of the references, both rounded as published. Shape: (..., 3) -> (...)"""
    answer, reference = np.round(sums[..., 0] / sums[..., 2], 3), np.round(sums[..., 1] / sums[..., 2], 3)
    return np.divide(answer, reference, out=np.zeros_like(answer), where=reference != 0)


def _of_pair(verdict: Verdict, kind: str | None) -> dict[str, Sequence[float]]:
    answer, reference = verdict.score or 0.0, verdict.reference or 0.0
    return {RELATIVE: (answer, reference, 1.0), REFERENCE: (reference, 1.0), ANSWER: (answer, 1.0)}


OF_PAIRS = JudgedValues(
    (
        Metric(RELATIVE, None, highest=HIGHEST_OF_PAIR / LOWEST_OF_PAIR, from_sums=_relative),
        Metric(REFERENCE, None, highest=HIGHEST_OF_PAIR, scale=10.0),
        Metric(ANSWER, None, highest=HIGHEST_OF_PAIR, scale=10.0),
    ),
    _of_pair,
    worst=Verdict(LOWEST_OF_PAIR, reference=HIGHEST_OF_PAIR),
)


def _of_capabilities(verdict: Verdict, kind: str | None) -> dict[str, Sequence[float]]:
    return dict.fromkeys((TOTAL, *(kind or "").split("_")), score_sum(verdict))


BY_CAPABILITY = JudgedValues(
    (Metric(TOTAL, None), *(Metric(name, None, of_all=True) for name in CAPABILITIES)), _of_capabilities
)


@dataclass(frozen=True)
class PairReviewed(PictureQuestions):
    """LLaVA-Bench in the Wild."""

    judged: JudgedValues = OF_PAIRS

    def read(self, data: Path) -> tuple[Path, Sequence[AskedPicture], bytes]:
        folder, path = set_file(data, self.folders, ("questions.jsonl",), self.title)
        rows, entries, content = question_lines(path)
        answers, answer_bytes = read_list(folder / REFERENCES)
        contexts, context_bytes = read_list(folder / "context.jsonl")
        if len(answers) != len(rows):
            raise UserError(
                f"{folder}: questions.jsonl has {len(rows)} lines, answers_gpt4.jsonl {len(answers)}; they are paired"
            )
        told = folder / "context.jsonl"
        described = each_once(
            (
                (f"{told}: entry {index}", field_of(told, index, one, "image", (str,)), _caption(folder, index, one))
                for index, one in enumerate(contexts)
            ),
            "'image'",
        )
        asked = []
        for (index, id, picture, text), entry, answer in zip(rows, entries, answers, strict=True):
            where = f"{path}: entry {index}"
            given = folder / REFERENCES
            if str(field_of(given, index, answer, "question_id", (str, int))) != str(id):
                raise UserError(f"{given}: entry {index} answers {answer['question_id']!r}, but {where} is {id!r}")
            if picture not in described:
                raise UserError(f"{where}: context.jsonl has no line for {picture}")
            asked.append(
                AskedPicture(
                    where,
                    id,
                    picture,
                    text,
                    field_of(given, index, answer, "text", (str,)),
                    field_of(path, index, entry, "category", (str,)),
                    judge_prompt=PAIR_REVIEW,
                    judge_texts={CONTEXT: described[picture]},
                )
            )
        return folder, asked, b"\0".join([content, answer_bytes, context_bytes])

    def official_reviews(
        self,
        judgements: Mapping[int, Judgement],
        predictions: Sequence[Prediction],
        questions: QuestionSet,
        judge: str,
        model: str,
    ) -> Iterator[tuple[str, str]]:
        given, _ = read_list(questions.folder / REFERENCES)
        answers = {one.index: one for one in predictions}
        records = (
            {
                "id": index + 1,
                "question_id": self.official_id(answers[index].id),
                "answer1_id": given[index].get("answer_id", ""),
                "answer2_id": answer_id(answers[index]),
                "category": f"llava_bench_{answers[index].type}",
                "content": _said(one),
                "tuple": one.value,
            }
            for index, one in sorted(judgements.items())
            if one.error is None
        )
        yield f"reviews/{model}.jsonl", "".join(json.dumps(record) + "\n" for record in records)


def _said(judgement: Judgement) -> str:
    """The reply of a chat model; of a judge that replies nothing, its numbers as one would write them."""
    if judgement.reply is not None:
        return judgement.reply
    value = judgement.value["score"] if isinstance(judgement.value, dict) else judgement.value
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _caption(folder: Path, index: int, entry: Any) -> str:
    """The description of a picture: a text, or lines."""
    found = field_of(folder / "context.jsonl", index, entry, "caption", (str, list))
    return found if isinstance(found, str) else "\n".join(map(str, found))


@dataclass(frozen=True)
class MMVet(PictureQuestions):
    """MM-Vet."""

    judged: JudgedValues = BY_CAPABILITY
    server: str = "the MM-Vet evaluator (huggingface.co/spaces/whyu/MM-Vet_Evaluator)"
    upload_file: str = "results/{model}.json"

    def read(self, data: Path) -> tuple[Path, Sequence[AskedPicture], bytes]:
        folder, path = set_file(data, self.folders, ("llava-mm-vet.jsonl",), self.title)
        rows, _, content = question_lines(path)
        known, known_bytes = value_and_bytes(folder / ANNOTATIONS)
        asked = []
        for index, id, picture, text in rows:
            about = known.get(_key(id)) if isinstance(known, dict) else None
            if not isinstance(about, dict):
                raise UserError(f"{folder / ANNOTATIONS}: has no {_key(id)!r}, which {path}: entry {index} asks")
            answer = field_of(folder / ANNOTATIONS, index, about, "answer", (str, int, float))
            capabilities = field_of(folder / ANNOTATIONS, index, about, "capability", (list,))
            unknown = sorted(set(map(str, capabilities)) - set(CAPABILITIES))
            if unknown or not capabilities:
                said, known_ones = ", ".join(unknown) or "none", ", ".join(CAPABILITIES)
                raise UserError(f"{folder / ANNOTATIONS}: {_key(id)}: capability {said}; known: {known_ones}")
            asked.append(
                AskedPicture(
                    f"{path}: entry {index}",
                    id,
                    picture,
                    text,
                    str(answer),
                    "_".join(sorted(set(capabilities))),
                    judge_prompt=CORRECTNESS_OF_PARTS,
                    judge_texts={ELEMENTS: set_apart(str(answer))},
                )
            )
        return folder, asked, b"\0".join([content, known_bytes])

    def submission(self, predictions: Sequence[Prediction], questions: QuestionSet) -> bytes:
        return json.dumps({_key(one.id): one.pred for one in predictions if one.error is None}, indent=2).encode()

    def official_reviews(
        self,
        judgements: Mapping[int, Judgement],
        predictions: Sequence[Prediction],
        questions: QuestionSet,
        judge: str,
        model: str,
    ) -> Iterator[tuple[str, str]]:
        """One file of grades, and two tables of scores once all questions have a grade.

        A reply that was never a score is graded 0 there, as published.
        """
        ids = {one.index: one.id for one in predictions}
        grades = {_key(ids[index]): _graded(one, judge) for index, one in sorted(judgements.items())}
        known, _ = value_and_bytes(questions.folder / ANNOTATIONS)
        stem = f"results/{model}_{judge.replace('/', '_')}"
        yield f"{stem}-grade-1runs.json", json.dumps(grades, indent=4)
        if all(key in grades for key in known):
            scores = {key: float(grades[key]["score"][0]) for key in known}
            capabilities = {key: sorted(set(about["capability"])) for key, about in known.items()}
            together = {key: ["_".join(names)] for key, names in capabilities.items()}
            yield f"{stem}-cap-score-1runs.csv", _table_of_means(model, capabilities, scores)
            yield f"{stem}-cap-int-score-1runs.csv", _table_of_means(model, together, scores)


def _graded(judgement: Judgement, judge: str) -> dict[str, list[Any]]:
    """A judgement as the published script of MM-Vet stores it."""
    said = _said(judgement)
    if judgement.error is not None:
        return {"model": [judge], "content": [said], "score": [0.0]}
    score = CORRECTNESS_OF_PARTS_PROMPT.form.read(judgement.value).score
    return {"model": [judge], "content": [said.split(" ")[0].strip()], "score": [score]}


def _table_of_means(model: str, groups: Mapping[str, Sequence[str]], scores: Mapping[str, float]) -> str:
    """CSV with one row: the mean score of each group of questions in percent, largest group first, and of all.

    Args:
        groups: question -> its groups.
        scores: question -> score, 0 to 1.
    """
    members: dict[str, list[float]] = {}
    for key, names in groups.items():
        for name in names:
            members.setdefault(name, []).append(scores[key])
    ordered = sorted(members, key=lambda name: -len(members[name]))
    means = {name: _percent(members[name]) for name in ordered} | {"total": _percent(list(scores.values()))}
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["", *means, "std", "runs"])
    rows.writerow([model, *means.values(), 0.0, f"[{means['total']}]"])
    return text.getvalue()


def _percent(scores: Sequence[float]) -> float:
    """The mean in percent, with one decimal. Published scripts add the scores up before they divide."""
    return float(np.round(sum(scores) / len(scores) * 100, 1))


def _key(id: str | int) -> str:
    """Id of a question in the annotation file and the upload."""
    return f"v1_{id}"


LLAVA_BENCH = PairReviewed(
    name="llava_bench",
    title="LLaVA-Bench in the Wild",
    source="Liu et al., Visual Instruction Tuning, NeurIPS 2023, arXiv:2304.08485",
    lookup=pictures_in("images"),
    folders=("llava-bench-in-the-wild",),
    generation=GenerationRules(),
    system_rules=OPEN_RULES,
)
MM_VET = MMVet(
    name="mm_vet",
    title="MM-Vet",
    source="Yu et al., MM-Vet, ICML 2024, arXiv:2308.02490; question file of LLaVA",
    lookup=pictures_in("images"),
    folders=("mm-vet", "mmvet"),
    generation=GenerationRules(),
    system_rules=OPEN_RULES,
)
