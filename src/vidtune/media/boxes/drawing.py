"""Pictures of a target: the video with its boxes, and a strip of the frames that a model is shown.

The asked box is red, boxes of the track are green.
"""

import bisect
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidtune.errors import MediaError, UserError
from vidtune.foreign.containment import is_inside
from vidtune.machine.files import atomic_file
from vidtune.media.boxes.forms import Box
from vidtune.media.boxes.located import LocatedTarget
from vidtune.media.video import every_frame, read_frames

KINDS = (".mp4", ".png")
ASKED, TRACKED = (235, 50, 50), (60, 220, 90)
_FRAMES_PER_SECOND = 10  # of a folder, whose frames have no times
_NEAR = 0.25
"""Seconds before and after a box within which it is drawn."""
_GAP = 1.0
"""Seconds between two boxes up to which the frames between them get a box between the two."""
_TICKS = 90_000
_STRIP_HEIGHT, _LABEL = 240, 20
_Colour = tuple[int, int, int]


def check_drawing(path: Path, video: Path) -> None:
    """Raise UserError unless a drawing of this video can be written to this path."""
    if path.suffix.lower() not in KINDS:
        raise UserError(f"{path}: name a file that ends in .mp4 (the video with its boxes) or .png (the frames used)")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder, for the drawing {path.name}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"{path}: cannot be written (a folder, or no permission); name another file for the drawing")
    if path.resolve() == video.resolve():
        raise UserError(f"{path}: is the video itself; name another file for the drawing")
    if is_inside(path, video):
        raise UserError(f"{path}: lies in the folder of frames and would be one; name a file elsewhere")


def draw_target(target: LocatedTarget, path: Path, most: int) -> None:
    """Write a drawing in one step: of the whole video (.mp4), or of the frames that are used (.png).

    Args:
        most: largest number of boxes of the track that the model takes.

    Raises:
        MediaError: the video cannot be read.
    """
    if path.suffix.lower() == ".mp4":
        _write_video(target, path)
    else:
        _write_strip(target, path, most)


def _write_video(target: LocatedTarget, path: Path) -> None:
    """Write the video with its boxes, without its sound. Odd sizes get one more pixel, as the codec needs."""
    times = target.info.times
    starts = times.starts if times.known else np.arange(times.num_frames) / _FRAMES_PER_SECOND
    rate = Fraction(times.fps or _FRAMES_PER_SECOND).limit_denominator(1001)
    boxes = _BoxesByTime(target, starts)
    with atomic_file(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "20"})
        stream.width, stream.height = (size + size % 2 for size in (target.info.width, target.info.height))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        frames = every_frame(target.video)
        for number, start in enumerate(starts.tolist()):
            pixels = _next(frames, number, target)
            picture = Image.fromarray(pixels)
            if (found := boxes.at(start)) is not None:
                _draw(picture, *found)
            even = np.pad(np.asarray(picture), [(0, size % 2) for size in pixels.shape[:2]] + [(0, 0)], "edge")
            frame = av.VideoFrame.from_ndarray(even, format="rgb24")
            frame.pts, frame.time_base = round(start * _TICKS), Fraction(1, _TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _next(frames: Iterator[np.ndarray], number: int, target: LocatedTarget) -> np.ndarray:
    """Pixels of a frame. Raises MediaError if the file ends before it, or the frame has another size than the first."""
    info = target.info
    if (pixels := next(frames, None)) is None:
        raise MediaError(target.video, f"ends after {number} of its {info.num_frames} frames; it is cut off or damaged")
    if pixels.shape[:2] != (info.height, info.width):
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise MediaError(target.video, f"frame {number} is {size}, the first one {info.width}x{info.height}")
    return pixels


def _write_strip(target: LocatedTarget, path: Path, most: int) -> None:
    """Write the frames that a model is shown side by side: the asked one, then those of the track."""
    shown = [target.key, *(target.used(most) if target.track else ())]
    frames = read_frames(target.video, [box.frame for box in shown])
    scale = _STRIP_HEIGHT / frames.shape[1]
    width = max(1, round(frames.shape[2] * scale))
    strip = Image.new("RGB", (width * len(shown), _STRIP_HEIGHT + _LABEL), (255, 255, 255))
    labels, font = ImageDraw.Draw(strip), ImageFont.load_default(13)
    for number, (box, pixels) in enumerate(zip(shown, frames, strict=True)):
        picture = Image.fromarray(pixels).resize((width, _STRIP_HEIGHT))
        colour = TRACKED if number else ASKED
        _draw(picture, _scaled(box.box, width / frames.shape[2], scale), colour)
        strip.paste(picture, (number * width, 0))
        moment = f"frame {box.frame}" if box.seconds is None else f"{box.seconds:.2f} s"
        labels.text((number * width + 4, _STRIP_HEIGHT + 2), moment, fill=(0, 0, 0), font=font)
    with atomic_file(path) as part:
        strip.save(part, format="PNG")


class _BoxesByTime:
    """The boxes of a target, and the boxes between them.

    Args:
        starts: seconds at which the frames begin (N,).
    """

    def __init__(self, target: LocatedTarget, starts: np.ndarray) -> None:
        boxes: dict[int, tuple[Box, _Colour]] = {box.frame: (box.box, TRACKED) for box in target.track}
        boxes[target.key.frame] = (target.key.box, ASKED)
        self._boxes = [boxes[frame] for frame in sorted(boxes)]
        self._times = [float(starts[frame]) for frame in sorted(boxes)]

    def at(self, second: float) -> tuple[Box, _Colour] | None:
        """The box at a second and its colour; None: it is not known where the target is."""
        after = bisect.bisect_left(self._times, second)
        nearest = min({max(after - 1, 0), min(after, len(self._times) - 1)}, key=lambda n: abs(self._times[n] - second))
        near = abs(self._times[nearest] - second) <= _NEAR
        colour = self._boxes[nearest][1] if near else TRACKED
        if 0 < after < len(self._times) and self._times[after] - self._times[after - 1] <= _GAP:
            (one, _), (other, _) = self._boxes[after - 1], self._boxes[after]
            share = (second - self._times[after - 1]) / (self._times[after] - self._times[after - 1])
            left, top, right, bottom = (a + share * (b - a) for a, b in zip(one, other, strict=True))
            return (left, top, right, bottom), colour
        return (self._boxes[nearest][0], colour) if near else None


def draw_box(picture: Image.Image, box: Box, asked: bool) -> None:
    """Draw a box onto a picture, in pixels of the picture; one that is not asked about is of a track."""
    _draw(picture, box, ASKED if asked else TRACKED)


def _draw(picture: Image.Image, box: Box, colour: _Colour) -> None:
    width = max(2, round(min(picture.size) / 120))
    left, top, right, bottom = (round(number) for number in box)
    ImageDraw.Draw(picture).rectangle(
        (left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour, width=width
    )


def _scaled(box: Box, across: float, down: float) -> Box:
    left, top, right, bottom = box
    return left * across, top * down, right * across, bottom * down
