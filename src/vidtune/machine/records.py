"""Append-only JSON Lines files that survive ``kill -9``: every evaluated question is one line, written once.

A line is written with one system call, so a killed process leaves whole lines and at most one torn one at the end,
which the next writer cuts off. The operating system holds the lines at once; they are forced to disk every few seconds
and on closing.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from vidtune.errors import UserError

SYNC_SECONDS = 5.0


class JsonLines:
    """An append-only file of JSON objects, open for one writer.

    Args:
        path: created with its folder if missing.
        shared: several processes may append at the same time (a cache). Torn lines are then left where they are and
            skipped by readers; otherwise a second writer is refused.

    Raises:
        UserError: another process is writing the file.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if not shared:
                self._lock()
                os.ftruncate(self._file, _whole_lines(self._file))
            elif _whole_lines(self._file) != os.fstat(self._file).st_size:
                os.write(self._file, b"\n")
        except BaseException:
            os.close(self._file)
            raise
        self._synced = time.monotonic()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record as one line, keys in the order given."""
        line = memoryview((json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
        while line:
            line = line[os.write(self._file, line) :]
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            os.fsync(self._file)
            self._synced = time.monotonic()

    def close(self) -> None:
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self.path}: another process is writing this file; wait for it or stop it") from None


def read_records(path: Path, *, skip_broken: bool = False) -> Iterator[dict[str, Any]]:
    """The whole lines of a file, in order; nothing when the file does not exist.

    A last line without line end is torn and left out.

    Raises:
        UserError: a whole line is not a JSON object; names the line and column.
    """
    if not path.exists():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("expected an object")
            except ValueError as error:
                if skip_broken:
                    continue
                column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
                reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                raise UserError(f"{path}: line {number}{column}: not valid JSON ({reason})") from None
            yield record


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """A JSON file's value; raises UserError naming the file, and line and column of a mistake."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object; raises UserError naming line and column."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected an object, found {type(value).__name__}")
    return value


def _whole_lines(file: int) -> int:
    """Length in bytes of the file up to and including its last line end."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - 65536)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
