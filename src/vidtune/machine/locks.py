"""Locks between processes, on one host or on several that share a disk (library ``filelock``).

The lock of a folder is the file ``.lock`` in it; the lock of a file ``NAME`` is the file ``.NAME.lock`` beside it. The
operating system releases a lock when its process ends, also after ``kill -9``. Lock files stay: to delete one that
another process is about to take would break the lock.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from vidtune.errors import UserError
from vidtune.foreign.documents import read_text

_LONGEST_HOLDER = 4096
"""Bytes of a lock file."""
_POLL_SECONDS = 0.005
_REFUSE_AFTER_SECONDS = 1.0
"""Another process may hold a lock for a moment only, to see whether it is free (`is_locked`)."""


class LockUnavailableError(UserError):
    """The lock cannot be taken by anybody: the folder may only be read, or its file system has no locks."""


@contextmanager
def locked(path: Path, *, refusal: str | None = None) -> Iterator[None]:
    """Context manager that holds the lock of a file or folder. The lock is not re-entrant.

    Args:
        path: the file, which need not exist, or the folder, which must.
        refusal: text of the error when another process holds the lock for more than a second. None: wait for that
            process.

    Raises:
        UserError: another process holds the lock; the message is "PATH: REFUSAL", with process and host if known.
        LockUnavailableError: the lock file cannot be written or locked.
    """
    place = lock_file(path)
    # Not thread-local: a record file may be closed by another thread than the one that opened it.
    lock = FileLock(str(place), timeout=-1 if refusal is None else _REFUSE_AFTER_SECONDS, thread_local=False)
    try:
        lock.acquire(poll_interval=_POLL_SECONDS)
    except Timeout:
        raise UserError(f"{path}: {refusal}{_holder(place)}") from None
    except OSError as error:
        raise LockUnavailableError(f"{path}: cannot be locked ({error.strerror})") from None
    try:
        if refusal is not None and not isinstance(lock, SoftFileLock):
            with suppress(OSError):
                place.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether another process holds the lock of a file or folder. Nothing is written.

    A lock file that may not be opened counts as held.
    """
    place = lock_file(path)
    if not place.exists():
        return False
    lock = FileLock(str(place), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return True
    lock.release()
    return False


class NumberedLocks:
    """Locks of numbered things between processes, all in one file: each byte of it stands for one thing.

    A process takes a lock or does not get it; it never waits. Locks of a process that ends are free at once. One object
    per file and process: closing a second one would release the locks of the first.

    Args:
        path: the file; created if missing, and empty.

    Raises:
        LockUnavailableError: from any method, where the file cannot be written or its file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise LockUnavailableError(f"{path}: cannot be locked ({error.strerror})") from None

    def take(self, number: int) -> bool:
        """Take the lock of a thing. Returns whether this process has it; False: another one has."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):  # which of the two: POSIX leaves it open
            return False
        except OSError as error:
            raise LockUnavailableError(f"{self.path}: cannot be locked ({error.strerror})") from None
        return True

    def release(self, number: int) -> None:
        """Give the lock of a thing back."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)

    def close(self) -> None:
        """Give all locks back."""
        os.close(self._file)


def lock_file(path: Path) -> Path:
    """Return the path of the lock file of a file or folder."""
    return path / ".lock" if path.is_dir() else path.with_name(f".{path.name}.lock")


def _holder(place: Path) -> str:
    """Return which process holds a lock, as " (process 12 on host)"; empty when that is not known."""
    try:
        text = read_text(place, limit=_LONGEST_HOLDER).strip()
    except UserError:
        return ""
    return f" ({text})" if text.startswith("process ") else ""
