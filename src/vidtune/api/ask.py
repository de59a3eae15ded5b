"""What every way of asking a model shares."""

from dataclasses import dataclass

from vidtune.data.sample import MediaRef
from vidtune.generation.settings import GenerationSettings

MEDIA_TIMEOUT = 60.0
"""Seconds that one media file may take to be read."""


@dataclass(frozen=True)
class Ask:
    """What every way of asking shares: the media, and how answers are decoded.

    ``box`` is the stream of the asked box, whose tag may stand in every question; None: the model takes no boxes.
    """

    media: tuple[MediaRef, ...]
    without: frozenset[str]
    prompt: str
    settings: GenerationSettings
    duration: float | None
    timeout: float
    box: str | None = None

    def media_of(self, question: str, later: bool = False) -> tuple[MediaRef, ...]:
        """The media of a question, in the order of their tags. The asked box stands for each of its tags.

        Args:
            later: the question follows others of a conversation, which hold the tags of the other media.
        """
        if self.box is None:
            return () if later else self.media
        times = question.count(f"<{self.box}>")
        found: list[MediaRef] = []
        for ref in self.media:
            if ref.stream == self.box:
                found += [ref] * (times if later else max(1, times))
            elif not later:
                found.append(ref)
        return tuple(found)
