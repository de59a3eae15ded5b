"""The log of a stage: ``log.jsonl``, one JSON object per line. The same numbers go to the trackers.

Keys of a line: step (finished optimizer steps), epoch, loss (mean per supervised token; null without any), losses
(further terms, where there are any), learning_rate and gradient_norm per component and in total (before clipping),
samples, tokens, supervised_tokens, tokens_per_second, data_wait (share of the time spent waiting for data, of the rank
that waited longest), mfu (share of the device's peak, where that is known), memory_gib (peak, of the fullest rank),
seconds, ranks.
Counts and times cover the steps since the line before, on all ranks.
"""

import resource
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch

from vidtune.errors import UserError
from vidtune.machine.records import RecordWriter, numbered_records, write_records

LOG = "log.jsonl"
RECENT_LINES = 20


class Tracker(Protocol):
    """A service besides ``log.jsonl`` that shows the numbers of a run. It may raise anything; training continues."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of the steps up to ``step``, by names such as ``loss`` and ``gradient_norm/total``."""
        ...

    def close(self) -> None:
        """Send what was not sent yet."""
        ...


class TrainingLog:
    """Writer of a stage's log, in one process of a run.

    Args:
        folder: folder of the stage.
        first_step: number of steps done so far; lines of later steps, written before a crash, are dropped because
            those steps run again.
        tracker: gets the numbers as well.
    """

    def __init__(self, folder: Path, first_step: int, tracker: Tracker | None = None) -> None:
        path = folder / LOG
        kept = [line for line in _logged(path) if line["step"] <= first_step]
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
    """Returns the step of the last line; 0 without a log."""
    return max((line["step"] for line in _logged(folder / LOG)), default=0)


def recent_step_seconds(folder: Path, step: int) -> list[float]:
    """Returns the seconds per step of the last lines up to ``step``, to estimate the time left right after resuming."""
    lines = [line for line in _logged(folder / LOG) if line["step"] <= step][-RECENT_LINES - 1 :]
    return [
        after["seconds"] / (after["step"] - before["step"])
        for before, after in pairwise(lines)
        if "seconds" in after and after["step"] > before["step"]
    ]


def _logged(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the lines of a log. Raises UserError for a line with a wrong step or time; names the line."""
    for number, line in numbered_records(path):
        for key, value in (("step", line.get("step")), ("seconds", line.get("seconds", 0.0))):
            if not isinstance(value, int if key == "step" else (int, float)):
                raise UserError(f"{path}: line {number}: {key!r} is not a number; mend or remove this line")
        yield line


def flat_numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of a log line without ``step`` and nulls; those inside mappings are named ``key/name``."""
    flat = {}
    for key, value in line.items():
        for name, number in value.items() if isinstance(value, Mapping) else [("", value)]:
            if number is not None:
                flat[f"{key}/{name}" if name else key] = number
    del flat["step"]
    return flat


def peak_memory_gib(device: torch.device) -> float:
    """Returns the peak memory so far: of the accelerator, or of this process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
