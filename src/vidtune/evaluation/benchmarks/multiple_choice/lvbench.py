"""LVBench: questions about videos of an hour and more, each with four options.

Wang et al., LVBench: An Extreme Long Video Understanding Benchmark, arXiv:2406.08035. Read are
``video_info.meta.jsonl`` of the public release, or the cleaned set of the authors of VideoChat-Flash,
``json/lvbench_clean_<category>.json``. The videos are in ``videos/``; or as folders of one frame a second in
``frames/``, which then is read: the authors of VideoChat-Flash evaluate on such folders (``vidtune data frames`` makes
them).

Two records: `LVBENCH` as they evaluate, `LVBENCH_LMMS_EVAL` as lmms-eval 0.7 does.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.multiple_choice.base import (
    ANSWER_BY_LETTER,
    Asked,
    MultipleChoice,
    frames_of,
    options_of,
    place_of,
    tasks_of,
)
from vidtune.evaluation.benchmarks.named_files import VIDEO_EXTENSIONS
from vidtune.evaluation.benchmarks.test_set_files import field_of, name_of, set_folder
from vidtune.evaluation.protocol import ChoiceRules, FileLookup

META = "video_info.meta.jsonl"
CATEGORIES = ("cartoon", "documentary", "live", "selfmedia", "sport", "tv")
FRAMES = "frames"
FRAMES_PER_SECOND = 1.0
_MARK = re.compile(r"\(([A-Z])\)\s*")


@dataclass(frozen=True)
class LVBenchSet(MultipleChoice):
    """The test set.

    Args:
        marked: the texts of options keep the letter that stands before each in the public release, such as ``(A)``.
    """

    marked: bool = True

    def read(self, data: Path) -> tuple[Path, Sequence[Asked], bytes]:
        folder = set_folder(data, ("LVBench", "lvbench"), lambda one: bool(_files(one)), f"{META} of {self.title}")
        frames = FRAMES_PER_SECOND if (folder / FRAMES).is_dir() else None
        paths = _files(folder)
        tasks, content = tasks_of(paths)
        asked: list[Asked] = []
        for path, entries in zip(paths, tasks, strict=True):
            read = self._of_release if path.name == META else self._of_cleaned
            for index, entry in enumerate(entries):
                asked += read(path, index, entry, frames)
        return folder, asked, content

    def _of_release(self, path: Path, index: int, entry: Any, frames: float | None) -> Iterator[Asked]:
        """The questions of one video."""
        video, kind = (field_of(path, index, entry, key, (str,)) for key in ("key", "type"))
        for number, one in enumerate(field_of(path, index, entry, "qa", (list,))):
            place = f"{index}, question {number}"
            where = f"{path}: entry {place}"
            text, answer = (field_of(path, place, one, key, (str,)) for key in ("question", "answer"))
            question, options = _split(text)
            if not options:
                raise UserError(f"{where}: 'question' has no line that begins with (A)")
            letters = [_MARK.match(option)[1] for option in options]  # type: ignore[index]
            yield self._one(
                where,
                name_of(path, place, one, "uid", f"{video}/{number}"),
                kind,
                video,
                question,
                options,
                place_of(answer.strip(), letters),
                frames,
            )

    def _of_cleaned(self, path: Path, index: int, entry: Any, frames: float | None) -> Iterator[Asked]:
        options = options_of(path, index, entry, "candidates")
        right = place_of(field_of(path, index, entry, "answer", (str, int, float)), options)
        video = field_of(path, index, entry, "video", (str,))
        kind = path.stem.rpartition("_")[2]
        question = field_of(path, index, entry, "question", (str,))
        yield self._one(f"{path}: entry {index}", f"{kind}/{index}", kind, video, question, options, right, frames)

    def _one(
        self,
        where: str,
        id: str,
        kind: str,
        video: str,
        question: str,
        options: Sequence[str],
        right: int | None,
        frames: float | None,
    ) -> Asked:
        bare = str(PurePosixPath(video).with_suffix("")) if video.lower().endswith(VIDEO_EXTENSIONS) else video
        texts = tuple(options) if self.marked else tuple(_MARK.sub("", option, count=1) for option in options)
        return Asked(where, id, kind, bare, question, texts, right, frames=frames)


def _files(folder: Path) -> list[Path]:
    """The annotation files of a folder: those of the cleaned set, or that of the release; none if it holds neither."""
    cleaned = [folder / "json" / f"lvbench_clean_{category}.json" for category in CATEGORIES]
    if any(path.is_file() for path in cleaned):
        return cleaned
    return [path for path in (folder / META,) if path.is_file()]


def _split(text: str) -> tuple[str, list[str]]:
    """A question of the release without its options, and these, each with its mark."""
    lines = text.split("\n")
    first = next((place for place, line in enumerate(lines) if _MARK.match(line)), len(lines))
    return "\n".join(lines[:first]), [line for line in lines[first:] if _MARK.match(line)]


LVBENCH = LVBenchSet(
    name="lvbench",
    system_rules=frames_of(640),
    title="LVBench",
    source="Wang et al., LVBench: An Extreme Long Video Understanding Benchmark, arXiv:2406.08035",
    lookup=FileLookup(folder="videos"),
    choices=ChoiceRules(wording=f"{{question}}\n{{options}}\n{ANSWER_BY_LETTER}", option="{letter}. {option}"),
    reads="normalised",
    counts_empty=False,
    mean="by questions",
    frames_folder=FRAMES,
)
LVBENCH_LMMS_EVAL = LVBENCH.by_lmms_eval(
    choices=ChoiceRules(
        wording="{question}\n{options}\nAnswer the question with the option letter", option="({letter}) {option}"
    ),
    reads="ranked",
    counts_empty=True,
    mean=None,
    marked=False,
)
