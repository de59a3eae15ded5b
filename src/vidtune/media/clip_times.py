"""Time of a clip, made of the frames that are shown and of nothing else.

Legend: T shown frames in order of presentation. A tick is the unit of time of the file.
"""

import base64
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from typing import Self

import numpy as np

from vidtune.errors import UserError

_NEAR = 1e-9  # seconds by which a frame may begin later than a moment that was computed with floats
_LARGEST = np.iinfo(np.int64).max
MOST_FRAMES = 2**16
"""Most frames that can be asked for of one file."""
FOLDER_FPS = 1.0
"""Frames per second of frames without times, where a part of them is asked for by seconds and no rate is given."""
UNEVEN_SECONDS = 0.5
"""Distance in seconds between a frame and its place at an even frame rate, above which the frame rate is not even."""


@dataclass(frozen=True, slots=True)
class Part:
    """What of a media file is read as one clip, and which frames of it represent it.

    Args:
        start, end: seconds at which it begins and ends; None: those of the file. An end behind that of the file is the
            end of the file.
        fps: frames per second that the frames are taken to have; None: those of the file. A picture has none of its
            own; with a rate it is a clip of one frame.
        folder_fps: the same, only for frames without times: those of a folder.
        frames: how many frames are taken, by the sampling rule of the model; None: as many as the model takes.
        frames_at: seconds of the file whose frames are taken, ascending, in the place of those of the sampling rule.
            They stand for themselves: without ``start``, ``end`` and ``frames``.

    Raises:
        ValueError: seconds that are negative, not finite, reversed or no numbers, a rate that is not above 0, or a
            number of frames below 1 or above `MOST_FRAMES`; in one line.
    """

    start: float | None = None
    end: float | None = None
    fps: float | None = None
    folder_fps: float | None = None
    frames: int | None = None
    frames_at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, second in (("start", self.start), ("end", self.end), *(("frames_at", at) for at in self.frames_at)):
            if second is not None and not (_is_number(second) and second >= 0):
                raise ValueError(f"{name} is {_written(second)} seconds; give 0 or more")
        if self.end is not None and not (self.start or 0.0) < self.end:
            raise ValueError(f"start is {self.start or 0:g} and end {self.end:g} seconds; the end must come after it")
        for name, rate in (("fps", self.fps), ("folder_fps", self.folder_fps)):
            if rate is not None and not (_is_number(rate) and rate > 0):
                raise ValueError(f"{name} is {_written(rate)} frames per second; give a number above 0")
        if self.frames is not None and (not _is_whole(self.frames) or self.frames < 1):
            raise ValueError(f"frames is {_written(self.frames)}; give a whole number of frames, 1 or more")
        if (self.num_frames or 1) > MOST_FRAMES:
            raise ValueError(f"{_written(self.num_frames)[:20]} frames are asked for; {MOST_FRAMES:,} is the most")
        if list(self.frames_at) != sorted(self.frames_at):
            raise ValueError(f"frames_at is {_written(self.frames_at)}; give the seconds in ascending order")
        if self.frames_at and (self.is_cut or self.frames is not None):
            raise ValueError(
                "given seconds of frames leave nothing to choose; leave out start, end and frames beside frames_at"
            )

    @property
    def is_cut(self) -> bool:
        """Whether it may be less than the whole file."""
        return self.start is not None or self.end is not None

    @property
    def num_frames(self) -> int | None:
        """How many frames are asked for; None: as many as the model takes."""
        return len(self.frames_at) or self.frames

    def frame_rate(self, known: bool) -> float | None:
        """Frames per second to assume; None: those of the file. ``known``: whether its frames have times."""
        if self.fps is not None or known:
            return self.fps
        return self.folder_fps or (FOLDER_FPS if self.is_cut or self.frames_at else None)

    def chosen(self, times: "ClipTimes") -> list[int]:
        """Indices of the frames that are asked for by their seconds; none are, if this is empty.

        Args:
            times: of the frames, as :meth:`of` returns them.

        Raises:
            ValueError: a second behind the end.
        """
        if not self.frames_at:
            return []
        if self.frames_at[-1] > times.duration:
            raise ValueError(
                f"its frame at {self.frames_at[-1]:g} s was asked for, but it ends after {times.duration:.2f} s"
            )
        return times.indices_at(np.array(self.frames_at, np.float64)).tolist()

    def seconds_of(self, length: float) -> tuple[float, float]:
        """Start and end in a file of ``length`` seconds. Raises ValueError if the start is not before its end."""
        start, end = self.start or 0.0, length if self.end is None else min(self.end, length)
        if not start < end:
            raise ValueError(f"its part from {start:g} s on was asked for, but it ends after {length:.2f} s")
        return start, end

    def of(self, times: "ClipTimes") -> tuple[int, "ClipTimes", float]:
        """Frames of the part: the index of the first one in the file, their times, and the seconds of the part.

        At an even frame rate the part has ``int(seconds * fps)`` frames, at least one, from the frame that is shown at
        its start on (the decord reader of arXiv:2501.00574, whose end may not lie within 0.1 s of that of the file;
        here it may). At an uneven one, it has the frames that are shown in it.

        Raises:
            ValueError: the part begins behind the end of the file.
        """
        rate = self.frame_rate(times.known)
        if rate is not None:
            times = ClipTimes.evenly(times.num_frames, rate)
        if not self.is_cut:
            return 0, times, times.duration
        start, end = self.seconds_of(times.duration)
        first = times.index_at(start)
        if times.is_even(UNEVEN_SECONDS):
            last = first + max(1, int((end - start) * times.fps + _NEAR))
        else:
            last = 1 + times.index_at(end - 2 * _NEAR)
        last = min(max(last, first + 1), times.num_frames)
        return first, times.between(first, last), end - start


def asked_part(
    start: float | None = None,
    end: float | None = None,
    frames: int | None = None,
    frames_at: Sequence[float] | None = None,
) -> Part | None:
    """What of a video is read as a user asks for it; None: the whole file, by the rules of the model.

    Args:
        start, end: seconds between which it is read; None: its start, its end.
        frames: number of frames; None: as many as the model takes.
        frames_at: seconds whose frames are read, in the place of ``start``, ``end`` and ``frames``.

    Raises:
        UserError: impossible seconds or numbers, in one line.
    """
    if frames_at is not None and not frames_at:
        raise UserError("--frames-at: names no second; leave it out for the frames that the model takes")
    for option, given in (
        ("--start and --end", {"start": start, "end": end}),
        ("--frames", {"frames": frames}),
        ("--frames-at", {"start": start, "end": end, "frames": frames, "frames_at": _seconds(frames_at)}),
    ):
        try:
            part = Part(**given)
        except ValueError as error:
            raise UserError(f"{option}: {error}") from None
    return None if part == Part() else part


def _seconds(given: Sequence[float] | None) -> tuple[float, ...]:
    """Seconds as a part takes them. Raises UserError for anything but a list."""
    if isinstance(given, str | bytes) or not isinstance(given, Sequence | None):
        raise UserError(f"--frames-at: expected a list of seconds, found {given!r}")
    return tuple(given or ())


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _written(value: object) -> str:
    """A wrong value as a message shows it."""
    return f"{value:g}" if isinstance(value, float) else repr(value)


@dataclass(frozen=True)
class ClipTimes:
    """Start of every shown frame, and the end of the last one. The distances between frames may vary.

    Comparable and hashable, and all fields are plain JSON. Make one with `of_ticks`, `evenly` or `unknown`.

    Args:
        num_frames: number T of shown frames.
        end: end of the last frame, in ticks from the start of the first one.
        numerator, denominator: seconds per tick; numerator 0: the times are unknown.
        steps: ticks from each frame to the next one, compressed, because a film has 200 000 frames.
    """

    num_frames: int
    end: int
    numerator: int
    denominator: int
    steps: str = ""

    @classmethod
    def of_ticks(cls, starts: np.ndarray, end: int, tick: Fraction) -> Self:
        """Times in ticks of a file.

        Args:
            starts: integers (T,), ascending; counted from any moment.
            end: end of the last frame, counted from the same moment; above the last start.
            tick: seconds per tick.
        """
        starts = np.asarray(starts, np.int64)
        steps = np.diff(starts)
        if not len(starts) or (steps < 0).any() or end < starts[-1]:
            raise ValueError("the frames of a clip must be at least one, in order of presentation")
        packed = base64.b64encode(zlib.compress(steps.astype("<i8").tobytes())).decode()
        return cls(len(starts), int(end - starts[0]), tick.numerator, tick.denominator, packed)

    @classmethod
    def evenly(cls, num_frames: int, fps: float | Fraction) -> Self:
        """Times of frames with equal distances; fps: frames per second, 0 if it is unknown."""
        if num_frames < 1 or not fps > 0:
            return cls.unknown(num_frames)
        return cls.of_ticks(np.arange(num_frames), num_frames, 1 / Fraction(fps))

    @classmethod
    def unknown(cls, num_frames: int) -> Self:
        """Frames without times: those of a folder, and the picture of an image."""
        return cls(num_frames, 0, 0, 1)

    @property
    def known(self) -> bool:
        """Whether the frames have times."""
        return self.numerator > 0

    @property
    def duration(self) -> float:
        """Seconds from the start of the first frame to the end of the last one; 0 if unknown."""
        return float(self.end * Fraction(self.numerator, self.denominator))

    @property
    def fps(self) -> float:
        """Mean number of frames per second; 0 if unknown."""
        return self.num_frames / self.duration if self.end and self.known else 0.0

    @property
    def starts(self) -> np.ndarray:
        """Seconds from the start of the first frame to the start of each one: float64 (T,); unpacked at every call.

        Raises:
            ValueError: the times are unknown.
        """
        ticks = self._ticks()
        if max(self.end * self.numerator, self.denominator) <= _LARGEST:
            return ticks * self.numerator / self.denominator
        return ticks * (self.numerator / self.denominator)  # a rate such as 0.1, whose fraction has large terms

    def second_of(self, index: int) -> float:
        """Return the second at which a frame begins; 0 for the first one.

        Raises:
            IndexError: there is no such frame.
            ValueError: the times are unknown.
        """
        if not 0 <= index < self.num_frames:
            raise IndexError(f"frame {index} of {self.num_frames}")
        return float(self.starts[index])

    def index_at(self, second: float) -> int:
        """Return the index of the frame that is shown at a second: the first before the clip, the last after it.

        Raises:
            ValueError: the times are unknown.
        """
        return int(self.indices_at(np.array([second]))[0])

    def indices_at(self, seconds: np.ndarray) -> np.ndarray:
        """Return `index_at` of many moments at once. Shape: float (N,) -> int64 (N,)

        Raises:
            ValueError: the times are unknown.
        """
        return np.maximum(np.searchsorted(self.starts, seconds + _NEAR, side="right") - 1, 0)

    def is_even(self, tolerance: float) -> bool:
        """Whether every frame begins where `fps` puts it, up to ``tolerance`` seconds; True for unknown times."""
        if not (self.known and self.fps):
            return True
        return bool(np.abs(self.starts - np.arange(self.num_frames) / self.fps).max(initial=0.0) <= tolerance)

    def first(self, num_frames: int) -> Self:
        """Return the times of the first frames alone; the last of them ends where the next one begins."""
        return self.between(0, num_frames)

    def between(self, first: int, last: int) -> Self:
        """Return the times of the frames from ``first`` on and before ``last``, as those of a clip of their own."""
        if first <= 0 and last >= self.num_frames:
            return self
        if not self.known or last <= first:
            return self.unknown(max(last - first, 0))
        ticks = self._ticks()
        end = int(ticks[last]) if last < self.num_frames else self.end
        return self.of_ticks(ticks[first:last], end, Fraction(self.numerator, self.denominator))

    def _ticks(self) -> np.ndarray:
        if not self.known:
            raise ValueError("the times of these frames are unknown")
        steps = np.frombuffer(zlib.decompress(base64.b64decode(self.steps)), "<i8")
        return np.concatenate([[0], np.cumsum(steps)])
