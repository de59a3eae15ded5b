"""Questions about one target of a video, of a file in the form of `data.referring`."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidtune.data.annotation import Annotation
from vidtune.data.problems import SampleProblem
from vidtune.data.referring import referring_annotation
from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.test_set_files import read_list
from vidtune.evaluation.protocol import FileLookup
from vidtune.evaluation.question import Question, QuestionSet

if TYPE_CHECKING:
    from vidtune.data.media_files import MediaFiles

PATHS = FileLookup(folder="", extensions=("",))
"""Videos are named by their path, with extension."""


def read_targets(path: Path) -> tuple[list[tuple[Mapping[str, Any], Annotation]], str]:
    """Returns the entries of a file, each as it is written and as it was read, and a hash of the file.

    Raises:
        UserError: broken JSON, an entry of the wrong form (names file, entry and key), or no entry at all.
    """
    entries, content = read_list(path)
    if not entries:
        raise UserError(f"{path}: holds no question")
    read = [(entry, referring_annotation(path, index, entry)) for index, entry in enumerate(entries)]
    return read, hashlib.sha256(content).hexdigest()[:16]


def target_set(
    benchmark: str, root: Path, fingerprint: str, asked: Iterable[tuple[Question, Annotation]]
) -> QuestionSet:
    """Returns questions with the videos, boxes and tracks of their annotations.

    A question that cannot be asked has no video and says why: an impossible box, a path that leaves the folder, or
    frames that are not there. Where the features that an annotation names are there, they are read.

    Args:
        root: absolute path of the folder that paths of the annotations are relative to.
        fingerprint: hash of the file.
        asked: questions without media.
    """
    from vidtune.data.media_files import MediaFiles

    finder = MediaFiles(root, {})
    questions = tuple(_with_target(question, annotation, root, finder) for question, annotation in asked)
    stored = any(question.features for question in questions)
    return QuestionSet(benchmark, root, fingerprint, questions, {"video": str(root)} if stored else {})


def _with_target(question: Question, annotation: Annotation, root: Path, finder: "MediaFiles") -> Question:
    from vidtune.media.feature_file import is_feature_file

    try:
        if annotation.problem is not None:
            raise SampleProblem(*annotation.problem)
        video, *target = finder.refs(annotation)
    except SampleProblem as problem:
        return replace(question, problem=problem.reason, looked_for=problem.detail)
    frames = target[0].path
    if not Path(frames).exists():
        return replace(question, looked_for=f"not {_below(root, frames)}")
    is_stored = is_feature_file(video.path) and Path(video.path).is_file()
    return replace(
        question,
        file=None if is_stored else _below(root, frames),
        features=(("video", video.path),) if is_stored else (),
        media=tuple(replace(ref, path=_below(root, ref.path)) for ref in target),
    )


def _below(root: Path, path: str) -> str:
    return str(Path(path).relative_to(root))
