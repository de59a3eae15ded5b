"""Sends numbers to a tracker in the background. Training neither waits for it nor stops if it fails."""

import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from vidtune.training.log import Tracker

CLOSE_SECONDS = 60.0


class InBackground:
    """A tracker that is used from a thread of its own, so that training never waits for a network.

    The first failure is reported in one line, later ones are not. Further numbers are still sent, so a server that
    comes back gets them.

    Args:
        name: name of the tracker for messages.
        open: function that opens the tracker; called in the thread.
        note: function that prints a line.
        after: numbers of steps up to this one were sent before and are not sent again.
        must_open: wait for ``open``, and raise its error.
    """

    def __init__(
        self,
        name: str,
        open: Callable[[], Tracker],
        note: Callable[[str], None],
        after: int = 0,
        must_open: bool = False,
    ) -> None:
        self._name, self._open, self._note, self._after = name, open, note, after
        self._lines: queue.SimpleQueue[tuple[int, Mapping[str, float]] | None] = queue.SimpleQueue()
        self._opened: Future[Tracker] = Future()
        # An error that is raised is not reported as well.
        self._told = must_open
        self._thread = threading.Thread(target=self._feed, name=f"tracker-{name}", daemon=True)
        self._thread.start()
        if must_open:
            self._opened.result()
            self._told = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step > self._after:
            self._lines.put((step, values))

    def close(self) -> None:
        """Wait until everything is sent, but no longer than a minute."""
        self._lines.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._note(f"tracker {self._name}: did not take everything in {CLOSE_SECONDS:.0f} s; the rest is given up")

    def _feed(self) -> None:
        try:
            tracker = self._open()
        except Exception as error:
            self._tell(error)
            self._opened.set_exception(error)
            return
        self._opened.set_result(tracker)
        while (line := self._lines.get()) is not None:
            try:
                tracker.log(*line)
            except Exception as error:
                self._tell(error)
        try:
            tracker.close()
        except Exception as error:
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            self._note(f"tracker {self._name}: {reason(error)}; training goes on, log.jsonl has every number")


def reason(error: Exception) -> str:
    """Returns an error of another library in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(": ")
