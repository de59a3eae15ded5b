"""Samples: annotated conversations about zero or more media files, before tokenising and decoding."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from vidtune.media.clip_times import Part

Numbers = float | tuple["Numbers", ...]
"""A number, or nested tuples of numbers that form an array."""
PartSeconds = tuple[float | None, float | None, float | None]
"""Start, end and frame rate of what is read of a file, as the fields of `Part`."""
Extras = tuple[tuple[str, Numbers], ...]
"""Numbers of a medium by name."""
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class MediaRef:
    """A reference to a medium in a prompt.

    Args:
        stream: stream that reads it ("image", "video"); its tag in the text is ``<stream>``.
        path: absolute path of the media file, checked to be below its media root; empty: there is none.
        features: feature files of the medium as (stream, absolute path); a stream with an entry here reads the feature
            file instead of ``path``.
        extras: further numbers of the medium by name, such as boxes or the seconds of its frames; the connector of the
            stream gets them as float32 tensors.
        frames: names of files in the folder ``path``: the frames that the extras tell of, in their order. For
            preprocessing that has ``load_item``.
        start, end: seconds of the file between which the medium lies; None: from its start, to its end.
        fps: frames per second that the frames of the file are taken to have; None: those that it states. A folder of
            frames states none; a picture with a rate is a clip of one frame.
        num_frames: how many frames of a video are taken; None: as many as the preprocessing of its stream says.
        frames_at: seconds of the file whose frames are taken in the place of those of the sampling rule.
        among: number of items of its stream in the prompt; told to a stream whose preprocessing depends on it, else 1.
    """

    stream: str
    path: str
    features: tuple[tuple[str, str], ...] = ()
    extras: Extras = ()
    frames: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    fps: float | None = None
    num_frames: int | None = None
    frames_at: tuple[float, ...] = ()
    among: int = 1

    @property
    def part(self) -> Part | None:
        """What of the file is read; None: the whole file, by the rules of the stream.

        Raises:
            ValueError: negative or reversed seconds, or a rate or number of frames that is not above 0.
        """
        if (self.start, self.end, self.fps, self.num_frames) == (None, None, None, None) and not self.frames_at:
            return None
        return Part(self.start, self.end, self.fps, frames=self.num_frames, frames_at=self.frames_at)

    @property
    def asked_frames(self) -> int | None:
        """How many frames of a video are asked for; None: as many as its stream takes."""
        return len(self.frames_at) or self.num_frames

    def read_as(self, part: Part | None) -> "MediaRef":
        """Returns the same medium of which this part is read, with these frames; None: as it is."""
        if part is None:
            return self
        seconds = {name: getattr(part, name) for name in ("start", "end", "fps", "frames_at")}
        return replace(self, **seconds, num_frames=part.frames)

    def extra_arrays(self) -> dict[str, np.ndarray]:
        """Returns the extras as float32 arrays by name."""
        return {name: np.array(numbers, np.float32) for name, numbers in self.extras}

    def read_by(self, stream: str) -> "MediaRef | None":
        """Returns what a stream reads: its feature file, else the media file; None: there is neither."""
        path = dict(self.features).get(stream, self.path)
        frames = (self.num_frames, self.frames_at) if stream == self.stream else (None, ())
        return (
            replace(self, stream=stream, path=path, features=(), num_frames=frames[0], frames_at=frames[1])
            if path
            else None
        )


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; its text may contain stream tags such as ``<video>``. A system turn comes first."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Times:
    """Times that the text of a sample contains as marks.

    Args:
        duration: duration of the sample's clip in seconds.
        marks: (mark, seconds): a mark in the text ("<s0>") and the time it stands for, from the start of the clip.
    """

    duration: float
    marks: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """An annotated conversation.

    Args:
        id: ``<annotation file>:<index>``.
        turns: turns of the conversation.
        media: in the order of their tags in the text.
        times: times of the marks in the text; None: there are none.
    """

    id: str
    turns: tuple[Turn, ...]
    media: tuple[MediaRef, ...] = ()
    times: Times | None = None
