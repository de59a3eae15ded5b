"""Subtitles of test sets: which lines of them stand in a prompt, by the published rules."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.test_set_files import LARGEST, read_list

_SHOWN = re.compile(r'<font color="white" size=".72c">(.*?)</font>')
_SHORT = 1.0
"""Seconds; a shorter line is taken as one of this length, around its middle."""


@dataclass(frozen=True, slots=True)
class Line:
    """Some text, and the seconds of the video in which it is shown."""

    start: float
    end: float
    text: str


def shown_lines(srt: str) -> list[str]:
    """The text of every line of an ``.srt`` file that is marked as shown; of one line the first."""
    found = (_SHOWN.search(line) for line in _with_plain_ends(srt).split("\n"))
    return [one[1] for one in found if one is not None]


def timed_lines(path: Path, srt: str) -> list[Line]:
    """The sections of an ``.srt`` file, of two in the same time the last; the lines of a section joined by blanks.

    Raises:
        UserError: a section without times; names file and section.
    """
    found: dict[tuple[float, float], Line] = {}
    for number, section in enumerate(_with_plain_ends(srt).split("\n\n"), start=1):
        lines = section.split("\n")
        if not section.strip() or len(lines) < 3:
            continue
        try:
            start, end = (_seconds(time.replace(",", ".")) for time in lines[1].split(" --> "))
        except ValueError:
            raise UserError(
                f"{path}: section {number}: {lines[1]!r} is no time such as '00:00:01,000 --> 00:00:02,500'"
            ) from None
        found[start, end] = Line(start, end, " ".join(lines[2:]))
    return list(found.values())


def lines_in_frames(lines: Sequence[Line], frames: Sequence[int], fps: float) -> list[str]:
    """The marked text of the sections that are shown in one of the frames.

    In the order in which a set of Python gives their numbers, as the published code does.
    """
    spans = [(int(line.start * fps), int(line.end * fps)) for line in lines]
    seen = {place for frame in frames for place, (start, end) in enumerate(spans) if start <= frame < end}
    marked = (_SHOWN.search(lines[place].text) for place in seen)
    return [one[1] for one in marked if one is not None]


def frame_times(duration: float, most: int) -> list[float]:
    """Seconds of the frames: ``most`` of equal distance, or one of every second of a video that has fewer seconds."""
    return [duration / most * place for place in range(most)] if duration > most else list(range(int(duration)))


def placed_frames(duration: float, fps: float, num_frames: int, most: int) -> list[int]:
    """The frames of a video that stand between its subtitles: at most ``most``, at even steps of whole frames.

    Args:
        duration: seconds of the video as the test set holds them.
        num_frames: number of frames of the file, behind which none is taken.
    """
    count = max(1, min(most, int(duration)))
    step = int(int(duration * fps) / count)
    return [min(step * place, num_frames - 1) for place in range(count)]


def between_lines(lines: Iterable[Line], times: Sequence[float], tag: str) -> list[str]:
    """Frames and subtitles in the order of a prompt: a frame before the first line whose middle is not before it.

    Args:
        times: seconds of the frames, ascending.
        tag: what stands for a frame.

    Returns:
        as many tags as frames, and the lines that are shown in one of the frames.
    """
    found: list[str] = []
    placed = 0
    for line in lines:
        while placed < len(times) and times[placed] <= (line.start + line.end) / 2:
            found.append(tag)
            placed += 1
        if any(_covers(line, time) for time in times):
            found.append(line.text)
    return found + [tag] * (len(times) - placed)


def lines_at(path: Path, times: Iterable[float], offset: float, duration: float) -> list[str]:
    """The lines of a file of subtitles that are shown at one of these times; see `json_lines`."""
    times = list(times)
    return [line.text for line in json_lines(path, offset, duration) if any(_covers(line, time) for time in times)]


def json_lines(path: Path, offset: float, duration: float) -> list[Line]:
    """The lines of a ``.json`` file of subtitles.

    Args:
        path: a list of ``{"start": "00:00:01.5", "end": ..., "line": ...}``, or of ``{"timestamp": [1.5, 2.0],
            "text": ...}`` in seconds, where an end that is no fraction is that of the video. A line may end before it
            begins: like any short one it is then shown around its middle, as the published code does.
        offset: seconds that are subtracted from times in the file.
        duration: seconds of the video.

    Raises:
        UserError: the file cannot be read, or holds another form; names file and entry.
    """
    entries, _ = read_list(path)
    lines = [_line(path, index, entry, duration) for index, entry in enumerate(entries)]
    return [Line(line.start - offset, line.end - offset, line.text) for line in lines]


def _covers(line: Line, time: float) -> bool:
    start, end = line.start, line.end
    if end - start < _SHORT:
        middle = (start + end) / 2
        start, end = middle - _SHORT / 2, middle + _SHORT / 2
    return start < time < end


def _line(path: Path, index: int, entry: Any, duration: float) -> Line:
    try:
        if isinstance(entry, Mapping) and "timestamp" in entry:
            start, end = entry["timestamp"]
            return Line(_second(start), _second(end) if isinstance(end, float) else duration, _text(entry["text"]))
        return Line(_seconds(entry["start"]), _seconds(entry["end"]), _text(entry["line"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{path}: entry {index}: expected 'start', 'end' and 'line', or 'timestamp' and 'text', "
            f"found {repr(entry)[:80]}"
        ) from None


def _seconds(clock: str) -> float:
    hours, minutes, seconds = clock.split(":")
    return _second(3600 * int(hours)) + _second(60 * int(minutes)) + _second(float(seconds))


def _second(found: Any) -> float:
    """A number of seconds. Raises ValueError for what is none, and for one that no video has."""
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) <= LARGEST:
        raise ValueError(found)
    return float(found)


def _text(found: Any) -> str:
    if not isinstance(found, str):
        raise TypeError(found)
    return found


def _with_plain_ends(text: str) -> str:
    """A text whose lines end with a line feed, as Python reads files."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
