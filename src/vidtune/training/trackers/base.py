"""Description of a run for the trackers that show it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrackedRun:
    """One stage of a recipe, as one run of a tracker.

    Args:
        project: name of the group of runs: the system.
        name: name of the run: output folder and stage.
        id: 16 hex digits, the same every time the stage is resumed.
        resumed: whether a tracker of this kind has seen the id before.
        folder: folder of the stage.
        first_step: number of optimizer steps done so far.
        config: the resolved recipe.
    """

    project: str
    name: str
    id: str
    resumed: bool
    folder: Path
    first_step: int
    config: Mapping[str, Any]
