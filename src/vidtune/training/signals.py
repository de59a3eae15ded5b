"""Stopping on request: SIGTERM and SIGINT let the current step finish, save it, and leave."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class TrainingInterrupted(Exception):
    """The run was asked to stop and has saved itself. The message says how to go on.

    ``exit_code`` is what the process ends with, so that a job script can tell "start me again" from a failure.
    """

    exit_code = 130


class StopRequest:
    """Context that turns the first SIGTERM or SIGINT into the flag ``requested``; a second one acts as if there were
    no handler.

    Outside the main thread, where Python allows no handlers, only ``stop_after`` can ask.

    Args:
        stop_after: optimizer steps after which to ask for the stop without any signal.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, stop_after: int | None = None) -> None:
        self._steps_left = stop_after
        self.reason: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        return self.reason is not None

    def step_done(self) -> bool:
        """Count an optimizer step. Returns whether to stop now."""
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
