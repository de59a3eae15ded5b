"""Time of a clip, made of the frames that are shown and of nothing else.

Legend: T shown frames in order of presentation. A tick is the unit of time of the file.
"""

import base64
import zlib
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import numpy as np

_NEAR = 1e-9  # seconds by which a frame may begin later than a moment that was computed with floats


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
        return self._ticks() * self.numerator / self.denominator

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
        if num_frames >= self.num_frames:
            return self
        if not self.known or num_frames < 1:
            return self.unknown(num_frames)
        ticks = self._ticks()
        tick = Fraction(self.numerator, self.denominator)
        return self.of_ticks(ticks[:num_frames], int(ticks[num_frames]), tick)

    def _ticks(self) -> np.ndarray:
        if not self.known:
            raise ValueError("the times of these frames are unknown")
        steps = np.frombuffer(zlib.decompress(base64.b64decode(self.steps)), "<i8")
        return np.concatenate([[0], np.cumsum(steps)])
