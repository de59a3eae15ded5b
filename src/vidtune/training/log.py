"""What a run tells about itself: ``log.jsonl``, one object per line, and the same numbers for the trackers.

Keys of a line: step (finished optimizer steps), epoch, loss (mean per supervised token), losses (further terms, where
there are any), learning_rate and gradient_norm per component and in total (before clipping), samples, tokens,
supervised_tokens, tokens_per_second, data_wait (share of the time spent waiting for data, of the rank that waited
longest), mfu (share of the device's peak, where that is known), memory_gib (peak, of the fullest rank), seconds, ranks.
Counts and times cover the steps since the line before, on all ranks.
"""

import resource
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from vidtune.machine.records import RecordWriter, read_records, write_records
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
        kept = [line for line in read_records(path) if line["step"] <= first_step]
        write_records(path, kept)
        self._lines = RecordWriter(path)
        self._tracker = tracker

    def write(self, line: Mapping[str, Any]) -> None:
        """Write one line, and send its numbers to the tracker."""
        self._lines.append(line)
        if self._tracker is not None:
            self._tracker.log(line["step"], flat_numbers(line))

    def close(self) -> None:
        """Close the log and the tracker."""
        self._lines.close()
        if self._tracker is not None:
            self._tracker.close()


def last_logged_step(folder: Path) -> int:
    """The step of the last line; 0 without a log."""
    return max((line["step"] for line in read_records(folder / LOG)), default=0)


def recent_step_seconds(folder: Path, step: int) -> list[float]:
    """Seconds per step of the last lines up to ``step``, to know how long the rest takes right after resuming."""
    lines = [line for line in read_records(folder / LOG) if line["step"] <= step][-RECENT_LINES - 1 :]
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
