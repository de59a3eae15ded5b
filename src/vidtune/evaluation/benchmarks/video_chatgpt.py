"""The Video-ChatGPT benchmark: open questions about videos, whose answers a judge gives points for five aspects.

Maaz et al., Video-ChatGPT, ACL 2024, arXiv:2306.05424; github.com/mbzuai-oryx/Video-ChatGPT, quantitative_evaluation.
A set is a folder with videos and three lists: ``generic_qa.json`` and ``temporal_qa.json`` of ``video_name``, ``Q`` and
``A``, ``consistency_qa.json`` of ``video_name``, ``Q1``, ``Q2`` and ``A``.

A generic question is asked once, and its answer judged for three aspects. The published scripts ask it three times, but
several systems judge all three aspects on the answers of the first time. The two questions of a pair are asked on their
own and judged together.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import Benchmark, OfficialAnswer
from vidtune.evaluation.benchmarks.judge_prompts.aspects import (
    CONSISTENCY,
    CONTEXT,
    CORRECTNESS,
    DETAIL,
    FIRST_TWICE,
    TEMPORAL,
)
from vidtune.evaluation.benchmarks.named_files import VideoFiles
from vidtune.evaluation.benchmarks.test_set_files import field_of, read_list
from vidtune.evaluation.benchmarks.zero_shot_qa import SYSTEM_RULES
from vidtune.evaluation.judged_values import JudgedValues, average_score_of
from vidtune.evaluation.protocol import FileLookup
from vidtune.evaluation.question import Prediction, Question, QuestionSet

FOLDER = "Video_5_Benchmark"
ANNOTATIONS = "Benchmarking_QA"
GENERIC_FILE, TEMPORAL_FILE, CONSISTENCY_FILE = "generic_qa.json", "temporal_qa.json", "consistency_qa.json"
ASKED = (
    *((aspect, GENERIC_FILE) for aspect in (CORRECTNESS, DETAIL, CONTEXT)),
    (TEMPORAL, TEMPORAL_FILE),
    (CONSISTENCY, CONSISTENCY_FILE),
)
"""Aspect -> file of its questions."""
ASPECTS = tuple(aspect for aspect, _ in ASKED)
LOOKUP = FileLookup(folder="Test_Videos")
RESULT_FILES = {CONTEXT: "contextual_qa.json"}
"""Names of official files of answers that are not ``<aspect>_qa.json``."""


@dataclass(frozen=True)
class AspectQA(Benchmark):
    """One test set, or a way of judging it.

    Args:
        consistency: name of the prompt that judges pairs of answers.
    """

    name: str
    title: str
    source: str
    consistency: str = CONSISTENCY
    lookup: FileLookup = LOOKUP
    version: int = 1
    system_rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    judged: JudgedValues = field(default_factory=lambda: average_score_of(ASPECTS))

    def load(self, data: Path) -> QuestionSet:
        """Read the set: the generic questions for each of three aspects, then the temporal ones, then the pairs.

        Args:
            data: folder of the set (with ``Benchmarking_QA`` and ``Test_Videos``), or one above it.

        Raises:
            UserError: a file is missing or broken, a field is missing, or a video name leaves the folder; names the
                file and the entry.
        """
        folder = self._find(Path(data)).resolve()
        read = {name: read_list(_annotations(folder) / name) for name in dict.fromkeys(name for _, name in ASKED)}
        names: dict[str, tuple[str, str]] = {}
        for name, (entries, _) in read.items():
            path = _annotations(folder) / name
            for index, entry in enumerate(entries):
                video = str(field_of(path, index, entry, "video_name", (str, int)))
                names.setdefault(video, (f"{path}: entry {index}", "video_name"))
        videos = VideoFiles(self.lookup, folder, names).found
        questions: list[Question] = []
        for aspect, name in ASKED:
            first = 0 if name == GENERIC_FILE and questions else None
            for number, entry in enumerate(_numbered(read[name][0])):
                questions.append(
                    Question(
                        index=len(questions),
                        id=f"{aspect}/{entry['id']}",
                        video=str(entry["video_name"]),
                        file=videos[str(entry["video_name"])].file,
                        similar=videos[str(entry["video_name"])].similar,
                        looked_for=videos[str(entry["video_name"])].looked_for,
                        type=aspect,
                        asked_as=None if first is None else first + number,
                        judge_prompt=self.consistency if aspect == CONSISTENCY else aspect,
                        **_texts(_annotations(folder) / name, number, entry),
                    )
                )
        fingerprint = hashlib.sha256(b"\0".join(content for _, content in read.values())).hexdigest()[:16]
        return QuestionSet(self.name, folder, fingerprint, tuple(questions))

    def official_files(
        self, predictions: Sequence[Prediction], references: Mapping[int, Mapping[str, Any]]
    ) -> Iterator[tuple[str, str]]:
        for aspect in ASPECTS:
            name = RESULT_FILES.get(aspect, f"{aspect}_qa.json")
            mine = [one for one in predictions if one.type == aspect and one.error is None]
            yield name, json.dumps([_official(one) for one in mine], indent=1, ensure_ascii=False) + "\n"

    def from_official(self, record: Mapping[str, Any]) -> OfficialAnswer | None:
        raise UserError("answers of the published scripts do not name the aspect; ask the model again")

    def _find(self, data: Path) -> Path:
        candidates = (data, data / FOLDER, data / "eval" / FOLDER, data.parent)
        for candidate in candidates:
            if (_annotations(candidate) / GENERIC_FILE).is_file():
                return candidate
        raise UserError(
            f"{data}: no {GENERIC_FILE} here, in {ANNOTATIONS}/ or in {FOLDER}/{ANNOTATIONS}/; give the folder of the "
            f"{self.title}"
        )


def _annotations(folder: Path) -> Path:
    inside = folder / ANNOTATIONS
    return inside if inside.is_dir() else folder


def _numbered(entries: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Entries with the official id: the name of the video, and how many questions about it come before."""
    seen: Counter[str] = Counter()
    for entry in entries:
        video = str(entry["video_name"])
        yield {**entry, "id": f"{video}_{seen[video]}"}
        seen[video] += 1


def _texts(path: Path, number: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Question, answer, and the second question of a pair."""
    answer = field_of(path, number, entry, "A", (str, int, float))
    if path.name != CONSISTENCY_FILE:
        return {"question": field_of(path, number, entry, "Q", (str,)), "answer": answer}
    first, second = (field_of(path, number, entry, key, (str,)) for key in ("Q1", "Q2"))
    return {"question": first, "second": second, "answer": answer}


def _official(prediction: Prediction) -> dict[str, Any]:
    answered: dict[str, Any] = {"video_name": prediction.video}
    if prediction.second is None:
        return answered | {"Q": prediction.question, "A": prediction.answer, "pred": prediction.pred}
    answered |= {"Q1": prediction.question, "Q2": prediction.second["question"], "A": prediction.answer}
    return answered | {"pred1": prediction.pred, "pred2": prediction.second["pred"]}


_SOURCE = "Maaz et al., Video-ChatGPT, ACL 2024, arXiv:2306.05424"
VIDEO_CHATGPT = AspectQA(
    name="video_chatgpt", title="Video-ChatGPT benchmark", source=_SOURCE, system_rules=SYSTEM_RULES
)
VIDEO_CHATGPT_FIRST_TWICE = AspectQA(
    name="video_chatgpt_q1_twice",
    title="Video-ChatGPT benchmark, pairs judged with the first question twice",
    source=f"{_SOURCE}; as the scripts of Video-LLaVA and Video-Panda judge consistency",
    consistency=FIRST_TWICE,
    system_rules=SYSTEM_RULES,
)
