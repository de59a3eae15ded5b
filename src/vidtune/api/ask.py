"""What every way of asking a model shares."""

from dataclasses import dataclass

from vidtune.data.sample import MediaRef
from vidtune.generation.settings import GenerationSettings

MEDIA_TIMEOUT = 60.0
"""Seconds that one media file may take to be read."""


@dataclass(frozen=True)
class Ask:
    """What every way of asking shares: the media, and how answers are decoded."""

    media: tuple[MediaRef, ...]
    without: frozenset[str]
    prompt: str
    settings: GenerationSettings
    duration: float | None
    timeout: float
