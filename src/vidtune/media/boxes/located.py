"""A target in one video: its boxes in pixels, at frames that exist."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vidtune.errors import UserError
from vidtune.media.boxes.forms import Box, GivenBox
from vidtune.media.image import image_size, list_frames
from vidtune.media.preprocessing.box_choice import chosen_boxes, outside_problem
from vidtune.media.probe import MediaInfo


@dataclass(frozen=True)
class BoxAt:
    """A box at a frame of a video.

    Args:
        frame: index of the frame, from 0.
        seconds: moment from the start of the video; None: the frames have no times.
        box: left, top, right and bottom in pixels of the frame.
    """

    frame: int
    seconds: float | None
    box: Box


@dataclass(frozen=True)
class LocatedTarget:
    """A target in one video.

    Args:
        video: absolute path of a video file or of a folder of frames.
        info: metadata of the video.
        key: the box that is asked about.
        track: further boxes of the target by time; empty: none is known.
    """

    video: str
    info: MediaInfo = field(repr=False)
    key: BoxAt
    track: tuple[BoxAt, ...] = ()

    def used(self, most: int) -> tuple[BoxAt, ...]:
        """At most so many boxes of the track, spread over its whole length; the asked box if there is no track."""
        track = self.track or (self.key,)
        return track if len(track) <= most else tuple(track[n] for n in chosen_boxes(len(track), most, "whole"))

    def with_track(self, boxes: Sequence[GivenBox], names: Sequence[str]) -> "LocatedTarget":
        """The same target with the boxes of a track, in any order.

        Args:
            names: what messages call each of the boxes.

        Raises:
            UserError: a box is not in the video, or two boxes are at one frame.
        """
        found: dict[int, BoxAt] = {}
        for box, name in zip(boxes, names, strict=True):
            located = locate(self.video, self.info, box, name)
            if located.frame in found:
                raise UserError(f"{name}: there is another box at the same frame ({located.frame}) of {self.video}")
            found[located.frame] = located
        return replace(self, track=tuple(found[frame] for frame in sorted(found)))


def locate(video: str, info: MediaInfo, given: GivenBox, name: str) -> BoxAt:
    """The frame of a box and its pixels. A box that is partly outside the frame stays as it is.

    Args:
        name: what messages call the box.

    Raises:
        UserError: the moment is after the end, the frames have no times, the whole box is outside the frame, or the
            frame of a folder has another size than the first one.
    """
    times = info.times
    if given.frame is not None:
        frame = given.frame
        if frame >= times.num_frames:
            raise UserError(
                f"{name}: frame {frame} is asked about, but the last one of {video} is {times.num_frames - 1}"
            )
    elif not times.known:
        raise UserError(
            f"{name}: the frames of {video} have no times; give the number of the frame in place of seconds"
        )
    else:
        if given.seconds > times.duration:  # type: ignore[operator]
            end = f"{times.duration:.10g} s"
            raise UserError(f"{name}: {given.seconds:.10g} s is asked about, but {video} ends at {end}")
        frame = times.index_at(given.seconds)  # type: ignore[arg-type]
    if info.kind == "frames":
        file = list_frames(video)[frame]
        if (size := image_size(file)) not in (None, (info.width, info.height)):
            first = f"the first frame of its folder {info.width}x{info.height}"
            raise UserError(f"{name}: {file} has {size[0]}x{size[1]} pixels, {first}; give frames of one size")
    box = given.in_pixels(info.width, info.height)
    if problem := outside_problem(box, info.width, info.height):
        raise UserError(f"{name}: the box {problem} of {video}")
    return BoxAt(frame, times.second_of(frame) if times.known else None, box)
