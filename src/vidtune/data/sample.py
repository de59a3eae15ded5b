"""A sample: one annotated conversation about zero or more media files, before any tokenising or decoding."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class MediaRef:
    """A media file that stands in a prompt.

    Args:
        stream: the stream that reads it ("image", "video"); its tag in the text is ``<stream>``.
        path: absolute path, already checked to lie below its media root; empty if there is none.
        features: files of tower features that stand in for the file, as (stream, absolute path); any stream that has
            one here reads it instead of ``path``.
    """

    stream: str
    path: str
    features: tuple[tuple[str, str], ...] = ()

    def read_by(self, stream: str) -> "MediaRef | None":
        """What a stream reads of it: its feature file, or the file; None when there is neither."""
        path = dict(self.features).get(stream, self.path)
        return MediaRef(stream, path) if path else None


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; its text may hold stream tags such as ``<video>``."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Times:
    """Moments that the text of a sample names by marks.

    Args:
        duration: seconds of the clip that the sample is about.
        marks: what stands in the text ("<s0>"), and the second it means, from the start of the clip.
    """

    duration: float
    marks: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """An annotated conversation. ``media`` stands in the order of the tags in the text; ``times`` are of its marks."""

    id: str
    turns: tuple[Turn, ...]
    media: tuple[MediaRef, ...] = ()
    times: Times | None = None
