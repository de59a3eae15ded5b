"""Zero-shot video QA: reads test sets in the official layout ``GPT_Zero_Shot_QA/<SET>``.

A set is a folder with ``test_q.json`` (list of ``video_name``, ``question``, ``question_id``), ``test_a.json`` (list of
``answer`` and optionally ``type``, in the same order) and the videos. Questions and answers are paired by position
before anything else, so no way of splitting the work can misalign them. Layout: github.com/mbzuai-oryx/Video-ChatGPT,
quantitative_evaluation.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.benchmarks.named_files import Named, VideoFiles
from vidtune.evaluation.benchmarks.test_set_files import field_of, read_list
from vidtune.evaluation.protocol import FileLookup
from vidtune.evaluation.question import Question, QuestionSet

QUESTIONS_FILE = "test_q.json"
ANSWERS_FILE = "test_a.json"


@dataclass(frozen=True)
class VideoQA(Benchmark):
    """One test set.

    Args:
        folder: name of the folder of the set.
        parent: name of the folder that holds the sets.
        lookup: where the videos are in the folder of the set.
        types: value in the answer file, as text -> name of the question type; other values are names themselves.
    """

    name: str
    title: str
    folder: str
    lookup: FileLookup
    source: str
    parent: str = "GPT_Zero_Shot_QA"
    types: Mapping[str, str] = field(default_factory=dict)
    version: int = 1
    system_rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def load(self, data: Path) -> QuestionSet:
        """Read the set.

        Args:
            data: folder of the set, the folder that holds it, or the one above that.

        Raises:
            UserError: no such folder, broken JSON (line and column), missing fields, lists of unequal length or in
                different orders, no question at all, or a video name that leaves the folder.
        """
        folder = self._find(Path(data)).resolve()
        asked, question_bytes = read_list(folder / QUESTIONS_FILE)
        answered, answer_bytes = read_list(folder / ANSWERS_FILE)
        if len(asked) != len(answered):
            raise UserError(
                f"{folder}: {QUESTIONS_FILE} has {len(asked)} entries but {ANSWERS_FILE} has {len(answered)}; "
                "they are paired by position and must be equally long"
            )
        if not asked:
            raise UserError(f"{folder / QUESTIONS_FILE}: holds no question")
        _require_same_order(folder, asked, answered)
        names: dict[str, tuple[str, str]] = {}
        for index, entry in enumerate(asked):
            name = str(field_of(folder / QUESTIONS_FILE, index, entry, "video_name", (str, int)))
            names.setdefault(name, (f"{folder / QUESTIONS_FILE}: entry {index}", "video_name"))
        videos = VideoFiles(self.lookup, folder, names).found
        questions = tuple(
            self._pair(index, folder, entry, answer, videos)
            for index, (entry, answer) in enumerate(zip(asked, answered, strict=True))
        )
        fingerprint = hashlib.sha256(question_bytes + b"\0" + answer_bytes).hexdigest()[:16]
        return QuestionSet(self.name, folder, fingerprint, questions)

    def _find(self, data: Path) -> Path:
        candidates = (data, data / self.folder, data / self.parent / self.folder)
        for candidate in candidates:
            if (candidate / QUESTIONS_FILE).is_file():
                return candidate
        raise UserError(
            f"{data}: no {QUESTIONS_FILE} here, in {self.folder}/ or in {self.parent}/{self.folder}/; "
            f"give the folder that holds the {self.title} test set"
        )

    def _pair(self, index: int, folder: Path, entry: Any, answer: Any, videos: Mapping[str, Named]) -> Question:
        asked, answered = folder / QUESTIONS_FILE, folder / ANSWERS_FILE
        video = str(entry["video_name"])
        kind = answer.get("type") if isinstance(answer, dict) else None
        return Question(
            index=index,
            id=str(field_of(asked, index, entry, "question_id", (str, int))),
            video=video,
            file=videos[video].file,
            similar=videos[video].similar,
            looked_for=videos[video].looked_for,
            question=field_of(asked, index, entry, "question", (str,)),
            answer=field_of(answered, index, answer, "answer", (str, int, float)),
            type=None if kind is None else self.types.get(str(kind), str(kind)),
        )


def _require_same_order(folder: Path, asked: Sequence[Any], answered: Sequence[Any]) -> None:
    """Answers that name their questions must stand in the order of the questions.

    Raises:
        UserError: they do not; names the first that differs.
    """
    ids = [[one.get("question_id") if isinstance(one, dict) else None for one in part] for part in (asked, answered)]
    # An id that all answers share names no question.
    if None in ids[0] or None in ids[1] or len(set(map(str, ids[1]))) == 1:
        return
    for index, (question, answer) in enumerate(zip(*ids, strict=True)):
        if str(question) != str(answer):
            raise UserError(
                f"{folder}: entry {index} of {QUESTIONS_FILE} has the question_id {question!r}, but in {ANSWERS_FILE} "
                f"{answer!r}; put both files in the same order"
            )
