"""Annotations: conversations as an annotation file has them, before their media files are found."""

import math
import re
from dataclasses import dataclass
from typing import Any

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Extras, PartSeconds, Times, Turn

START_MARK = re.compile(r"<s(\w+)>")


@dataclass(frozen=True, slots=True)
class Annotation:
    """One item of an annotation file; every reader of a format yields these.

    Args:
        original_id: id in the file; empty if missing.
        turns: turns of the conversation.
        media: (stream, relative path) in the order of the tags in the text. No path: the medium is named by the id.
        times: times of the marks in the turns; None: there are none.
        extras: extras of each medium, see `MediaRef`; empty: there are none.
        frames: names of the frames of each medium, see `MediaRef`; empty: there are none.
        parts: start, end and frame rate of each medium, see `MediaRef`; empty: all are whole files.
        problem: reason and detail of what makes the annotation unusable, see `SampleProblem`; None: nothing.
        words: number of words that order rules go by; None: those of all turns.
        item: the item in the plain form, by which the data of a file are identified; None: its bytes identify it.
        form: form in which the file has it, for the user.
        unknown: names of its keys that were not read.
    """

    original_id: str
    turns: tuple[Turn, ...]
    media: tuple[tuple[str, str | None], ...]
    times: Times | None = None
    extras: tuple[Extras, ...] = ()
    frames: tuple[tuple[str, ...], ...] = ()
    problem: tuple[str, str] | None = None
    words: int | None = None
    parts: tuple[PartSeconds, ...] = ()
    item: dict[str, Any] | None = None
    form: str = ""
    unknown: tuple[str, ...] = ()

    @property
    def word_length(self) -> int:
        """Number of words in all turns, separated by white space, or `words`; negative for a text-only annotation."""
        words = sum(len(turn.text.split()) for turn in self.turns) if self.words is None else self.words
        return words if self.media else -words


def as_tuples(value: Any) -> Any:
    """Nested lists as nested tuples, which can be hashed."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def check_times(times: Times) -> None:
    """Raise SampleProblem for impossible times: no duration, a time before the clip, an end before its start.

    A time after the end of the clip is allowed: published files round durations down.
    """
    if not (math.isfinite(times.duration) and times.duration > 0):
        raise SampleProblem("no duration", f"the duration is {times.duration:g} seconds")
    seconds = dict(times.marks)
    for mark, moment in times.marks:
        if not (math.isfinite(moment) and moment >= 0):
            raise SampleProblem("time outside the clip", f"{mark} stands for {moment:g} seconds")
        start = START_MARK.fullmatch(mark)
        end = f"<e{start[1]}>" if start else ""
        if end in seconds and seconds[end] < moment:
            raise SampleProblem(
                "times in the wrong order", f"{end}, {seconds[end]:g} seconds, comes before {mark}, {moment:g} seconds"
            )
