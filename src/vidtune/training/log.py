"""What a run tells about itself: ``log.jsonl``, one object per line, and the same numbers for the trackers.

Keys of a line: step (finished optimizer steps), epoch, loss (mean per supervised token), losses (further terms, where
there are any), learning_rate and gradient_norm per component and in total (before clipping), samples, tokens,
supervised_tokens, tokens_per_second, data_wait (share of the time spent waiting for data, of the rank that waited
longest), mfu (share of the device's peak, where that is known), memory_gib (peak, of the fullest rank), seconds, ranks.
Counts and times cover the steps since the line before, on all ranks.
"""

import json
import resource
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from vidtune.training.saving import write_atomic
from vidtune.training.trackers.base import Tracker

LOG = "log.jsonl"
RECENT_LINES = 20


class TrainingLog:
    """Writer of a stage's log, in one process of a run.

    Args:
        folder: of the stage.
        first_step: steps done so far; lines of later steps, written before a crash, are dropped because those steps
            run again.
        tracker: takes the numbers as well.
    """

    def __init__(self, folder: Path, first_step: int, tracker: Tracker | None = None) -> None:
        path = folder / LOG
        kept = [line for line in _lines(path) if line["step"] <= first_step]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        self._tracker = tracker

    def write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._tracker is not None:
            self._tracker.log(line["step"], flat_numbers(line))

    def close(self) -> None:
        self._file.close()
        if self._tracker is not None:
            self._tracker.close()


def last_logged_step(folder: Path) -> int:
    """The step of the last line; 0 without a log."""
    return max((line["step"] for line in _lines(folder / LOG)), default=0)


def recent_step_seconds(folder: Path, step: int) -> list[float]:
    """Seconds per step of the last lines up to ``step``, to know how long the rest takes right after resuming."""
    lines = [line for line in _lines(folder / LOG) if line["step"] <= step][-RECENT_LINES - 1 :]
    return [after["seconds"] / (after["step"] - before["step"]) for before, after in pairwise(lines)]


def flat_numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log line without ``step``, those inside mappings as ``key/name``."""
    flat = {}
    for key, value in line.items():
        for name, number in value.items() if isinstance(value, Mapping) else [("", value)]:
            flat[f"{key}/{name}" if name else key] = number
    del flat["step"]
    return flat


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory so far: of the accelerator, or of this process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a log; what a crash cut off ends it."""
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for line in file:
                if not line.endswith("\n"):
                    return
                yield json.loads(line)
