"""Kills the processes that decode media while they are at work, as a machine does whose memory is full."""

import os
import random
import signal
from typing import Any

import pytest

from vidtune.media import pool


class DecoderKiller:
    """Kills workers that have begun a job. No job is killed twice, so a second try in another worker succeeds.

    Args:
        kills: number of workers to kill; those that are left over count for the next run.
        seed: decides which jobs.
    """

    def __init__(self, kills: int, patch: pytest.MonkeyPatch, seed: int = 0) -> None:
        self.left, self._chance = kills, random.Random(seed)
        self._given: list[Any] = []
        give = pool._Worker.give

        def give_and_kill(worker: Any, task: Any) -> None:
            give(worker, task)
            first = task.job.preprocessing is not None and not any(task is one for one in self._given)
            self._given.append(task)
            if first and self.left and self._chance.random() < 0.6:
                assert worker.connection.poll(60)  # it has begun
                os.kill(worker.process.pid, signal.SIGKILL)
                self.left -= 1

        patch.setattr(pool._Worker, "give", give_and_kill)
