"""Reads media for a page in worker processes, with limits of time and memory: a file costs its own picture alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidtune.evaluation.report.pictures import strip_of
from vidtune.evaluation.runs.shown_media import ShownMedia
from vidtune.machine.cores import media_workers
from vidtune.media.container import open_video
from vidtune.media.feature_file import is_feature_file
from vidtune.media.pool import LoadJob, MediaPool

SECONDS = 60.0
"""Longest time for one file."""
_MICRO = 1_000_000


class Read(NamedTuple):
    """What a job gave, or why it gave nothing."""

    values: np.ndarray | None
    reason: str


@dataclass(frozen=True)
class Strip:
    """Job: frames of a medium side by side, see `strip_of`. Shape: -> uint8 (H, W, 3)"""

    folder: Path
    file: str | None
    media: ShownMedia
    frames: int

    @property
    def path(self) -> str:
        return str(self.folder / (self.file or ""))

    def load(self, path: str, seed: int | None) -> np.ndarray:
        return np.asarray(strip_of(self.folder, self.file, self.media, self.frames))


@dataclass(frozen=True)
class StatedLength:
    """Job: seconds that the header of a video states; 0: it states none. Shape: -> (1,) float64"""

    path: str

    def load(self, path: str, seed: int | None) -> np.ndarray:
        with open_video(path) as (container, stream):
            if stream.duration and stream.time_base:
                return np.array([float(stream.duration * stream.time_base)])
            return np.array([container.duration / _MICRO if container.duration else 0.0])


def read_all(jobs: Sequence[Strip] | Sequence[StatedLength]) -> Iterator[Read]:
    """Yield what each job gives, in their order. Stored features have no frames, and are not read."""
    todo: list[Any] = [job for job in jobs if not is_feature_file(job.path)]
    with MediaPool(media_workers(None) if todo else 0, SECONDS) as pool:
        results = pool.load(LoadJob(job.path, job, keep=False) for job in todo)
        for job in jobs:
            if is_feature_file(job.path):
                yield Read(None, "holds features, which have no frames")
                continue
            result = next(results)
            yield Read(result.array, "" if result.error is None else result.error.reason)
