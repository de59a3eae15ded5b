"""A sample: one annotated conversation about zero or more media files, before any tokenising or decoding."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class MediaRef:
    """A media file that stands in a prompt.

    Args:
        stream: the stream that reads it ("image", "video"); its tag in the text is ``<stream>``.
        path: absolute path, already checked to lie below its media root.
    """

    stream: str
    path: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; its text may hold stream tags such as ``<video>``."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """An annotated conversation. ``media`` stands in the order of the tags in the text."""

    id: str
    turns: tuple[Turn, ...]
    media: tuple[MediaRef, ...] = ()
