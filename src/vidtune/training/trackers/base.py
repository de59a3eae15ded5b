"""What a tracker is, and what it is told about the run it shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """A place outside ``log.jsonl`` where a run's numbers go. May raise anything; training goes on."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of the steps up to ``step``, by names such as ``loss`` and ``gradient_norm/total``."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


@dataclass(frozen=True)
class TrackedRun:
    """One stage of a recipe, as a tracker shows it.

    Args:
        project: what runs are grouped by: the system.
        name: output folder and stage.
        id: 16 hex digits, the same every time the stage is resumed.
        resumed: whether a tracker of this kind has seen the id before.
        folder: of the stage.
        first_step: optimizer steps done so far.
        config: the recipe as resolved.
    """

    project: str
    name: str
    id: str
    resumed: bool
    folder: Path
    first_step: int
    config: Mapping[str, Any]
