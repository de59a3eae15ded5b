"""Ctrl-C, at any moment of a command, ends in one line and exit code 130."""

import _thread
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 130
SAID = "interrupted; the same command goes on where it stopped"


class Interrupts:
    """Notes that Ctrl-C was pressed, also where a library turns the KeyboardInterrupt into an error of its own.

    Changes nothing outside the main thread, or where SIGINT is ignored or handled by somebody else.
    """

    def __init__(self) -> None:
        self.came = False
        self._handles = threading.current_thread() is threading.main_thread()
        self._handles = self._handles and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._handles:
            signal.signal(signal.SIGINT, self._receive)
            self._unraisable, sys.unraisablehook = sys.unraisablehook, self._again

    def end(self) -> None:
        """Ignore what comes from now on: the process ends anyway, and cleans up."""
        if self._handles:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sys.unraisablehook = self._unraisable
            # Where a KeyboardInterrupt left text that was executed (as that of dataclasses), `python -m` remembers it
            # and ends by the signal, whatever the exit code; executing another text makes it forget.
            exec("")

    def _receive(self, number: int, frame: FrameType | None) -> NoReturn:
        self.came = True
        raise KeyboardInterrupt

    def _again(self, lost: Any) -> None:
        """Send the signal again, a little later, where Python could not raise it, as in a callback of a destructor."""
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            self._unraisable(lost)
            return
        while True:
            try:
                threading.Timer(0.02, _thread.interrupt_main).start()
                return
            except KeyboardInterrupt:  # the signal came before the timer had begun, and would be lost here too
                continue
