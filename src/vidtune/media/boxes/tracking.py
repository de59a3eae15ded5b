"""Following a box through a video with a tracker of OpenCV, forwards and backwards from the frame of the box.

OpenCV is an optional package. Legend: N frames in which the box was found.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from vidtune.errors import MediaError, UserError
from vidtune.media.boxes.forms import Box
from vidtune.media.boxes.located import BoxAt, LocatedTarget
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.probe import probe
from vidtune.media.video import read_frames
from vidtune.spelling import suggestion

TRACKERS = {"csrt": "TrackerCSRT", "kcf": "TrackerKCF"}
"""Trackers that need no file of weights, by name; the classes of OpenCV."""
PER_SECOND = 12
"""Frames of a second that are followed; the frames between them are skipped."""
LOST = 12
"""Frames in a row in which the tracker does not find the target, after which it is given up."""
LONGEST_SIDE = 640
"""Pixels to which larger frames are made smaller, for speed."""
_AT_A_TIME = 2**27  # bytes of decoded frames
_SECONDS_PER_FRAME = 2.0


def check_tracker(name: str) -> None:
    """Raise UserError if there is no tracker of this name, or if OpenCV is not installed."""
    if not isinstance(name, str) or name not in TRACKERS:
        raise UserError(f"tracker {name!r} does not exist; {suggestion(str(name), TRACKERS)}")
    if find_spec("cv2") is None:
        raise UserError(_not_installed(name))


def followed(target: LocatedTarget, tracker: str, timeout: float) -> tuple[BoxAt, ...]:
    """The boxes of a target in the frames in which a tracker finds it, from the first to the last.

    Args:
        tracker: name in `TRACKERS`.
        timeout: seconds that the file may take to be read; following takes more for every frame.

    Raises:
        UserError: OpenCV is not installed.
        MediaError: the file cannot be read, or the tracker cannot begin with this box.
    """
    check_tracker(tracker)
    times = target.info.times
    steps: Any = FollowBox(tracker, target.key.frame, target.key.box)
    with MediaPool(1, timeout + _SECONDS_PER_FRAME * times.num_frames) as pool:  # only killing ends a stuck read
        [result] = pool.load([LoadJob(target.video, steps)])
    if result.error is not None:
        raise result.error
    assert result.array is not None
    starts = times.starts if times.known else None
    return tuple(
        BoxAt(int(frame), None if starts is None else float(starts[int(frame)]), (left, top, right, bottom))
        for frame, left, top, right, bottom in result.array.tolist()
    )


@dataclass(frozen=True)
class FollowBox:
    """Follows a box; a job of a media worker.

    Args:
        tracker: name in `TRACKERS`.
        frame: index of the frame of the box.
        box: left, top, right and bottom in pixels.
    """

    tracker: str
    frame: int
    box: Box

    def load_item(
        self, path: str, extras: Mapping[str, np.ndarray], seed: int | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Index of the frame, then left, top, right and bottom, of every frame in which the box was found.

        Shape: -> float64 (N, 5), in the order of the frames
        """
        info = probe(path)
        stride = max(1, round(info.fps / PER_SECOND))
        chunk = max(1, _AT_A_TIME // max(1, info.width * info.height * 3))
        rows: list[tuple[float, ...]] = [(self.frame, *self.box)]
        for indices in (range(self.frame, info.num_frames, stride), range(self.frame, -1, -stride)):
            rows += self._follow(path, _frames(path, indices, chunk))
        return np.array(sorted(rows), np.float64), {}

    def _follow(self, path: str, frames: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[float, ...]]:
        """The box in each frame after the first one, up to where it is lost."""
        import cv2

        cv2.setNumThreads(1)
        cv2.setRNGSeed(0)
        first = next(frames)[1]
        height, width = first.shape[:2]
        scale = min(1.0, LONGEST_SIDE / max(height, width))
        tracker = self._begun(path, cv2, _smaller(cv2, first, scale), scale)
        missing = 0
        for index, pixels in frames:
            found, (x, y, across, down) = tracker.update(_smaller(cv2, pixels, scale))
            box = np.array([x, y, x + across, y + down]) / scale
            left, top, right, bottom = np.clip(box, 0, [width, height, width, height]).tolist()
            if found and right - left >= 1 and bottom - top >= 1:
                missing = 0
                yield index, left, top, right, bottom
            elif (missing := missing + 1) == LOST:
                return

    def _begun(self, path: str, cv2: Any, pixels: np.ndarray, scale: float) -> Any:
        """A tracker that has seen the box; the parts of the box outside the frame are cut off."""
        name = TRACKERS[self.tracker]
        if not hasattr(cv2, name):
            raise UserError(_not_installed(self.tracker))
        height, width = pixels.shape[:2]
        corners = np.clip(np.array(self.box) * scale, 0, [width, height, width, height])
        left, top, right, bottom = np.rint(corners).astype(int).tolist()
        tracker = getattr(cv2, name).create()
        try:
            tracker.init(pixels, (left, top, max(1, right - left), max(1, bottom - top)))
        except cv2.error as error:
            reason = " ".join(str(error).split())
            raise MediaError(path, f"the tracker {self.tracker} cannot follow this box ({reason})") from None
        return tracker


def _not_installed(name: str) -> str:
    return f"tracker {name!r} needs OpenCV with its further modules: pip install 'vidtune[track]'"


def _frames(path: str, indices: Sequence[int], chunk: int) -> Iterator[tuple[int, np.ndarray]]:
    """Index and pixels of frames, decoded some at a time."""
    for begin in range(0, len(indices), chunk):
        some = indices[begin : begin + chunk]
        yield from zip(some, read_frames(path, some), strict=True)


def _smaller(cv2: Any, pixels: np.ndarray, scale: float) -> np.ndarray:
    """Pixels for OpenCV: blue first, and made smaller by a scale below 1."""
    pixels = np.ascontiguousarray(pixels[..., ::-1])
    return pixels if scale == 1 else cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
