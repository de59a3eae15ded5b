"""Stand-ins for preprocessing that do to a worker what broken files and programs do."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidtune.errors import UnreadMediaError

_leaked: list[np.ndarray] = []
LEAK = 64 * 2**20


@dataclass(frozen=True)
class Preprocessing:
    """``times``: so many tries end as ``behaviour`` says, counted in the file that is read; the next one succeeds."""

    behaviour: str
    times: int | None = None
    random_setting = "behaviour"  # what it makes depends on the seed

    def load(self, path: str, seed: int | None = None) -> np.ndarray:
        if self.times is not None:
            with Path(path).open("a+b") as file:
                file.write(b"x")
                if file.tell() > self.times:
                    return np.array([os.getpid(), file.tell()], np.float32)
        if self.behaviour == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.behaviour == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.behaviour == "machine":
            raise UnreadMediaError(path, "cannot be read (Input/output error)")
        if self.behaviour == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.behaviour == "bug":
            raise KeyError("a mistake in the program")
        if self.behaviour == "hang":
            time.sleep(60)
        if self.behaviour == "leak":
            _leaked.append(np.ones(LEAK, np.uint8))
        if self.behaviour == "swell":
            np.ones(LEAK, np.uint8)
        if self.behaviour == "large":
            return np.full(2**20, seed or 0, np.float32)
        if self.behaviour == "grey":
            return np.full((3, 5), seed or 0, np.uint8)
        return np.array([os.getpid(), seed or 0], np.float32)


@dataclass(frozen=True)
class JobOfReport(Preprocessing):
    """The same as a job of `evaluation.report.reading`."""

    path: str = ""


def leave_at_once(*_: Any) -> None:
    os._exit(7)
