"""Video-MME: 2700 questions with four options about 900 videos, short, medium and long; with and without subtitles.

Fu et al., Video-MME: The First-Ever Comprehensive Evaluation Benchmark of Multi-modal LLMs in Video Analysis, CVPR
2025, arXiv:2405.21075. The layout: the table of the public release as JSON lines (``videomme.jsonl``), videos in
``data/``, subtitles in ``subtitle/<video>.srt``.

The first two records are as the authors of VideoChat-Flash (arXiv:2501.00574) evaluate, those with ``_lmms_eval`` as
lmms-eval 0.7 does. The latter speaks of subtitles also where there are none, and with subtitles takes the lines of 32
frames of the video alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.multiple_choice.base import (
    ANSWER_BY_LETTER,
    AUTHORS_FRAMES,
    Asked,
    MultipleChoice,
    options_of,
    probed,
)
from vidtune.evaluation.benchmarks.multiple_choice.subtitles import lines_in_frames, shown_lines, timed_lines
from vidtune.evaluation.benchmarks.named_files import VideoFiles
from vidtune.evaluation.benchmarks.test_set_files import field_of, is_there, read_list, set_file
from vidtune.evaluation.protocol import ChoiceRules, FileLookup
from vidtune.evaluation.question import QuestionSet
from vidtune.foreign.documents import read_text
from vidtune.foreign.files import read_foreign

FILES = ("videomme.jsonl", "videomme.json", "test.jsonl", "test.json")
LETTERS = ascii_uppercase[:4]
LISTED = "This video's subtitles are listed below: \n"
SUBTITLES = "subtitle"
FRAMES = 32
"""Frames whose subtitles the record of lmms-eval takes."""

Fields = Mapping[str, Mapping[str, str]]
"""Name of a video -> fields of the wording of its questions."""


@dataclass(frozen=True)
class VideoMME(MultipleChoice):
    """The test set.

    Args:
        fields: (name of a video -> its subtitle file, None: there is none; name -> video file) -> fields of the
            wording; None: the wording has no fields, and no subtitles are read.
    """

    fields: Callable[[Mapping[str, Path | None], Mapping[str, Path]], Fields] | None = None

    def read(self, data: Path) -> tuple[Path, Sequence[Asked], bytes]:
        folder, path = set_file(data, ("Video-MME", "videomme"), FILES, self.title)
        entries, content = read_list(path)
        asked = [_asked(path, index, entry) for index, entry in enumerate(entries)]
        if self.fields is None or not asked:
            return folder, asked, content
        found = VideoFiles(self.lookup, folder, {one.video: (one.where, "videoID") for one in asked}).found
        videos = {name: folder / file for name, one in found.items() if (file := one.file or one.similar)}
        places = {name: folder / SUBTITLES / f"{name}.srt" for name in found}
        subtitles = {name: place if is_there(place) else None for name, place in places.items()}
        fields = self.fields(subtitles, videos)
        contents = [content, *(read_foreign(place) for place in subtitles.values() if place is not None)]
        return folder, [replace(one, fields={**one.fields, **fields[one.video]}) for one in asked], b"\0".join(contents)

    def lacking(self, questions: QuestionSet) -> Mapping[str, Sequence[str]]:
        if self.fields is None:
            return {}
        names = dict.fromkeys(f"{one.video}.srt" for one in questions.questions)
        places = {name: questions.folder / SUBTITLES / name for name in names}
        there = {name: place for name, place in places.items() if is_there(place)}
        return {
            f"videos without a file in {SUBTITLES}/; they are asked about without subtitles": [
                name for name in names if name not in there
            ],
            "files of subtitles without a line that is marked as shown": [
                name for name, place in there.items() if not shown_lines(read_text(place))
            ],
        }


def _asked(path: Path, index: int, entry: Any) -> Asked:
    options = options_of(path, index, entry, "options")
    marks = [f"{letter}." for letter in ascii_uppercase[: len(options)]]
    marked = all(map(str.startswith, options, marks))
    if not marked and any(one.startswith(f"{mark} ") for one, mark in zip(options, marks, strict=True)):
        raise UserError(f"{path}: entry {index}: 'options' begin with other letters than A. to D.: {options!r}")
    texts = tuple(one[2:].strip() for one in options) if marked else options
    # A few options lack the blank behind the letter; published code shows each of them as it is written.
    usual = not marked or list(options) == [f"{mark} {text}" for mark, text in zip(marks, texts, strict=True)]
    answer = field_of(path, index, entry, "answer", (str,)).strip()
    if answer not in LETTERS[: len(options)] or len(answer) != 1:
        raise UserError(f"{path}: entry {index}: 'answer' is {answer!r}, expected the letter of an option")
    return Asked(
        where=f"{path}: entry {index}",
        id=field_of(path, index, entry, "question_id", (str,)),
        type=field_of(path, index, entry, "duration", (str,)),
        video=field_of(path, index, entry, "videoID", (str,)),
        question=field_of(path, index, entry, "question", (str,)),
        options=texts,
        right=LETTERS.index(answer),
        fields={} if usual else {"options": "\n".join(options)},
    )


def _whole_subtitles(subtitles: Mapping[str, Path | None], videos: Mapping[str, Path]) -> Fields:
    """All lines. What speaks of them depends on whether there are any, what announces them on the file."""
    found = {}
    for name, path in subtitles.items():
        lines = [] if path is None else shown_lines(read_text(path))
        found[name] = {
            "listed": "" if path is None else LISTED + "\n".join(lines),
            "and": " and subtitles" if lines else "",
            "and_the": " and the subtitles" if lines else "",
        }
    return found


def _subtitles_of_frames(subtitles: Mapping[str, Path | None], videos: Mapping[str, Path]) -> Fields:
    """The lines that are shown in one of `FRAMES` frames of equal distance, as our reader counts frames."""
    found = {name: {"listed": f"{LISTED}No subtitles available"} for name in subtitles}
    named = {name: path for name, path in subtitles.items() if path is not None and name in videos}
    for name, info in probed({name: videos[name] for name in named}).items():
        frames = np.linspace(0, info.num_frames - 1, FRAMES, dtype=int).tolist()
        lines = lines_in_frames(timed_lines(named[name], read_text(named[name])), frames, info.fps)
        found[name] = {"listed": LISTED + "\n".join(lines)}
    return found


def _wording(before: str, frames: str, asks: str, after: str) -> ChoiceRules:
    """How a question is asked: ``frames`` says what is given, ``asks`` on what the answer is based."""
    task = (
        f"{before}{frames}Select the best answer to the following multiple-choice question based on the video{asks}. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\n"
    )
    return ChoiceRules(wording=task + after)


_QUESTION = "Question: {question}\nOption:\n{options}\n"
_BARE_QUESTION = "{question}\n{options}\n"
VIDEO_MME = VideoMME(
    name="video_mme",
    title="Video-MME",
    source=(
        "Fu et al., Video-MME: The First-Ever Comprehensive Evaluation Benchmark of Multi-modal LLMs in Video "
        "Analysis, CVPR 2025, arXiv:2405.21075"
    ),
    lookup=FileLookup(folder="data", extensions=(".mp4", ".MP4", ".mkv")),
    system_rules=AUTHORS_FRAMES,
    choices=_wording("", "These are the frames of a video. ", "", _QUESTION + ANSWER_BY_LETTER),
    reads="first_capital",
)
VIDEO_MME_SUBTITLES = replace(
    VIDEO_MME,
    name="video_mme_subtitles",
    title="Video-MME, with subtitles",
    choices=_wording(
        "{listed}\n", "These are the frames{and} of a video. ", "{and_the}", f"{_QUESTION}The best answer is:"
    ),
    fields=_whole_subtitles,
)
VIDEO_MME_LMMS_EVAL = VIDEO_MME.by_lmms_eval(
    choices=_wording("", "", " and the subtitles", f"{_BARE_QUESTION}\n{ANSWER_BY_LETTER}"),
    reads="ranked",
)
VIDEO_MME_SUBTITLES_LMMS_EVAL = VIDEO_MME_SUBTITLES.by_lmms_eval(
    choices=_wording("{listed}\n", "", " and the subtitles", f"{_BARE_QUESTION}The best answer is:"),
    reads="ranked",
    fields=_subtitles_of_frames,
)
