"""Questions about one target of a video, with short answers that a judge scores.

A set is a JSON list in the form of `data.referring` beside its videos. Every entry also has ``answer``, what is right,
and may have ``type``, the kind of the question.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vidtune.data.problems import SampleProblem
from vidtune.data.referring import PUBLISHED_TAG, TAG, read_referring
from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.base import Benchmark
from vidtune.evaluation.benchmarks.test_set_files import field_of, read_list
from vidtune.evaluation.protocol import FileLookup, GenerationRules, Protocol
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
    streams: tuple[str, ...] = ("box", "track")
    version: int = 1
    system_rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def load(self, data: Path) -> QuestionSet:
        """Read the set.

        Args:
            data: folder of the set, or the one that holds it.

        Raises:
            UserError: no such folder, broken JSON, a wrong entry, or no question at all; names the file and the entry.
        """
        from vidtune.data.media_files import MediaFiles

        folder = self._find(Path(data)).resolve()
        path = folder / self.file
        entries, content = read_list(path)
        if not entries:
            raise UserError(f"{path}: holds no question")
        files = MediaFiles(folder, {})
        questions = []
        for index, (entry, annotation) in enumerate(zip(entries, read_referring(path, content), strict=True)):
            try:
                if annotation.problem is not None:
                    raise SampleProblem(*annotation.problem)
                video, *target = files.refs(annotation)
            except SampleProblem as problem:
                raise UserError(f"{path}: entry {index}: {problem.detail}") from None
            below = [replace(ref, path=str(Path(ref.path).relative_to(folder))) for ref in target]
            found = str(Path(video.path).relative_to(folder))
            question = field_of(path, index, entry, "question", (str,))
            questions.append(
                Question(
                    index=index,
                    id=str(index),
                    video=str(field_of(path, index, entry, "video_name", (str, int))),
                    file=found if Path(video.path).exists() else None,
                    looked_for=None if Path(video.path).exists() else f"not {found}",
                    question=question.replace(PUBLISHED_TAG, TAG),
                    answer=field_of(path, index, entry, "answer", (str, int, float)),
                    type=field_of(path, index, entry, "type", (str,)) if "type" in entry else None,
                    media=tuple(below),
                )
            )
        return QuestionSet(self.name, folder, hashlib.sha256(content).hexdigest()[:16], tuple(questions))

    def protocol(
        self,
        *,
        prompt_format: str,
        stop: Sequence[str] = (),
        preprocessing: Mapping[str, Any] | None = None,
        blind: bool = False,
    ) -> Protocol:
        return Protocol(
            benchmark=self.name,
            version=self.version,
            prompt_format=prompt_format,
            file_lookup=FileLookup(folder="", extensions=("",)),
            preprocessing=dict(preprocessing or {}),
            question_media={stream: {} for stream in self.streams},
            generation=GenerationRules(stop=tuple(stop)),
            blind=blind,
        )

    def _find(self, data: Path) -> Path:
        for candidate in (data, data / self.folder):
            if (candidate / self.file).is_file():
                return candidate
        raise UserError(
            f"{data}: no {self.file} here or in {self.folder}/; give the folder that holds the {self.title} test set"
        )
