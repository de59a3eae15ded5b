"""Probing many media files at once, with a time limit for each."""

import queue
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vidtune.errors import MediaError
from vidtune.media.probe import MediaInfo

POLL_SECONDS = 0.05


class _Prober(threading.Thread):
    """Probes files from a queue until it is empty. A daemon, so that one stuck in a read cannot keep the program alive."""

    def __init__(
        self, probe: Callable[[str], MediaInfo], paths: "queue.SimpleQueue[str]", done: queue.SimpleQueue
    ) -> None:
        super().__init__(daemon=True)
        self._probe, self._paths, self._done = probe, paths, done
        self._lock = threading.Lock()
        self._current: tuple[str, float] | None = None
        self.start()

    def run(self) -> None:
        while True:
            try:
                path = self._paths.get_nowait()
            except queue.Empty:
                return
            self._current = path, time.monotonic()
            result: MediaInfo | MediaError
            try:
                result = self._probe(path)
            except MediaError as error:
                result = error
            except Exception as error:
                result = MediaError(path, f"{type(error).__name__}: {error}")
            with self._lock:
                if self._current is None:  # given up
                    return
                self._done.put((path, result))
                self._current = None

    def give_up_after(self, seconds: float) -> str | None:
        """The file this thread has been busy with for longer; the thread then ends as soon as it can. None if there is none."""
        with self._lock:
            if self._current is None or time.monotonic() - self._current[1] < seconds:
                return None
            path, self._current = self._current[0], None
            return path


def probe_files(
    paths: Iterable[str], probe: Callable[[str], MediaInfo], *, workers: int, timeout: float
) -> Iterator[tuple[str, MediaInfo | MediaError]]:
    """Probe files in threads; yields each path once, in the order in which they finish.

    Args:
        probe: reads one file's metadata, e.g. `ProbeCache.get`; called from several threads.
        timeout: seconds after which a file counts as unreadable. Its thread is left behind.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, MediaInfo | MediaError]] = queue.SimpleQueue()
    pending = 0
    for path in paths:
        waiting.put(path)
        pending += 1
    threads = [_Prober(probe, waiting, done) for _ in range(min(max(workers, 1), pending))]
    while pending:
        try:
            yield done.get(timeout=POLL_SECONDS)
            pending -= 1
        except queue.Empty:
            for number, thread in enumerate(threads):
                overdue = thread.give_up_after(timeout)
                if overdue is not None:
                    threads[number] = _Prober(probe, waiting, done)
                    yield overdue, MediaError(overdue, f"no metadata after {timeout:g} s")
                    pending -= 1


def unusable_file(path: str) -> tuple[str, str] | None:
    """Reason and detail if there is no file or folder at a path that could be opened without waiting; else None."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return "missing file", "does not exist"
    except OSError as error:
        return "unreadable file", error.strerror or str(error)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "unreadable file", "is neither a file nor a folder"
    return None
