"""A system that adds three tokens to the tokenizer of its language model; else as the one that tiny models are of."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from vidtune.models.config import VideoLMConfig
from vidtune.processing.added_tokens import AddedToken
from vidtune.registry import SYSTEMS
from vidtune.systems.base import System

MARKED = "marked"
TOKENS = (
    AddedToken("<vid_start>"),
    AddedToken("<vid_patch>", start="normal"),
    AddedToken("<vid_end>", special=False, predicted=True),
)
TEXTS = tuple(token.text for token in TOKENS)


@contextmanager
def marked_system(name: str = MARKED, **changes: Any) -> Iterator[System]:
    """Register the system; ``changes`` are those of its dialect."""
    whole = SYSTEMS["video_llava"]

    def build_config(*parts: Any) -> VideoLMConfig:
        config = whole.architecture.build_config(*parts)
        config.system = name
        return config

    dialect = replace(whole.dialect, **{"added_tokens": TOKENS, **changes})
    architecture = replace(whole.architecture, build_config=build_config)
    system = replace(whole, name=name, dialect=dialect, architecture=architecture)
    SYSTEMS.register(name, system)
    try:
        yield system
    finally:
        SYSTEMS.unregister(name)
