"""Questions about one target of a video, with short answers that a judge scores.

A set is a JSON list in the form of `data.referring` beside its videos. Every entry also has ``answer``, what is right,
and may have ``type``, the kind of the question.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtune.data.referring import PUBLISHED_TAG, TAG
from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.benchmarks.target_questions import PATHS, read_targets, target_set
from vidtune.evaluation.benchmarks.test_set_files import field_of
from vidtune.evaluation.protocol import FileLookup
from vidtune.evaluation.question import Question, QuestionSet


@dataclass(frozen=True)
class TargetQA(Benchmark):
    """One test set.

    Args:
        file: name of its list.
        folder: where it is below the folder that holds it.
        streams: streams that read the box and the track.
    """

    name: str
    title: str
    source: str
    file: str
    folder: str
    lookup: FileLookup = PATHS
    streams: tuple[str, ...] = ("box", "track")
    version: int = 1
    system_rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def load(self, data: Path) -> QuestionSet:
        """Read the set.

        Args:
            data: folder of the set, or the one that holds it.

        Raises:
            UserError: no such folder, broken JSON, an entry of the wrong form, or no question at all; names file
                and entry.
        """
        folder = self._find(Path(data)).resolve()
        entries, fingerprint = read_targets(folder / self.file)
        asked = (
            (_question(folder / self.file, index, entry), annotation)
            for index, (entry, annotation) in enumerate(entries)
        )
        return target_set(self.name, folder, fingerprint, asked)

    def further_rules(self) -> dict[str, Any]:
        return {"question_media": {stream: {} for stream in self.streams}}

    def _find(self, data: Path) -> Path:
        for candidate in (data, data / self.folder):
            if (candidate / self.file).is_file():
                return candidate
        raise UserError(
            f"{data}: no {self.file} here or in {self.folder}/; give the folder that holds the {self.title} test set"
        )


def _question(path: Path, index: int, entry: Mapping[str, Any]) -> Question:
    return Question(
        index=index,
        id=str(index),
        video=str(field_of(path, index, entry, "video_name", (str, int))),
        file=None,
        question=field_of(path, index, entry, "question", (str,)).replace(PUBLISHED_TAG, TAG),
        answer=field_of(path, index, entry, "answer", (str, int, float)),
        type=field_of(path, index, entry, "type", (str,)) if "type" in entry else None,
    )
