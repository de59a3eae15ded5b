"""The worlds that a recipe can name, each with its folder below the demo's."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from vidtune.world.dataset import WorldSpec, build_world
from vidtune.world.event_dataset import EventWorldSpec, build_event_world
from vidtune.world.layout import Progress


class Build(Protocol):
    """Render what is not there yet."""

    def __call__(self, out: Path, *, texts: Sequence[str] = (), progress: Progress | None = None) -> None: ...


@dataclass(frozen=True)
class World:
    """A kind of world at the size that the demo renders.

    Args:
        folder: its name below the demo's folder.
        build: renders it; ``texts`` are strings that its tokenizer should know besides its own.
    """

    folder: str
    build: Build


WORLDS = {
    "shapes": World("world", partial(build_world, spec=WorldSpec())),
    "events": World("events_world", partial(build_event_world, spec=EventWorldSpec())),
}
