"""Stopping on request: SIGTERM and SIGINT let the current step finish, save it, and leave."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class TrainingInterrupted(Exception):
    """The run was asked to stop and has saved itself. The message says how to go on; the process exits with ``exit_code``."""

    exit_code = 3


class StopRequest:
    """Context that turns the first SIGTERM or SIGINT into the flag ``requested``; a second one acts as if there were no handler.

    Outside the main thread, where Python allows no handlers, the flag can only be set by ``request``.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.reason: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        return self.reason is not None

    def request(self, reason: str) -> None:
        self.reason = reason

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._received) for number in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.request(signal.Signals(number).name)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
