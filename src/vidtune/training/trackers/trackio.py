"""trackio: local (``TRACKIO_DIR``, shown by ``trackio show``), or in the Space that ``TRACKIO_SPACE_ID`` names."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout

import trackio

from vidtune.training.trackers.base import TrackedRun


class Trackio:
    """One run of trackio per stage. It finds runs by name, so the id is part of it."""

    def __init__(self, run: TrackedRun) -> None:
        # It prints what it does; stdout belongs to the command.
        with redirect_stdout(sys.stderr):
            self._run = trackio.init(
                project=run.project,
                name=f"{run.name} {run.id[:6]}",
                config=dict(run.config),
                resume="allow",
                embed=False,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._run.finish()
