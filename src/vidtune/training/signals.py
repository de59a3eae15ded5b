"""Stopping on request: after SIGTERM or SIGINT the current step is finished and saved, then the run ends."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from vidtune.machine.ranks.launch import INTERRUPTED

NOTHING_SAVED = "nothing is saved yet; the same command starts from the beginning"


class TrainingInterrupted(Exception):
    """The run was stopped on request and has saved itself. The message says how to continue.

    ``exit_code`` is the exit code of the process: a job script can tell "start me again" from a failure.
    """

    exit_code = INTERRUPTED


class StopRequest:
    """Context manager that turns the first SIGTERM or SIGINT into the flag ``requested``.

    A second signal has its usual effect. Outside the main thread, where Python allows no signal handlers, only
    ``stop_after`` can request a stop.

    Args:
        stop_after: number of optimizer steps after which to request a stop without a signal.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, stop_after: int | None = None) -> None:
        self._steps_left = stop_after
        self.reason: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self.reason is not None

    def step_done(self) -> bool:
        """Count one optimizer step. Returns whether to stop now."""
        if self._steps_left is not None:
            self._steps_left -= 1
            if self._steps_left <= 0:
                self.reason = self.reason or "stop_after"
        return self.requested

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._received) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.reason = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
