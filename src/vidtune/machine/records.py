"""Append-only files of JSON lines: one record per line, written once. Every such file of the package goes through here.

Only a line with its line end counts. A process that is killed while it writes leaves complete lines and at most one
torn line at the end: readers ignore that line, and the next writer cuts it off. Readers never write.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from vidtune.errors import UserError
from vidtune.foreign.documents import JsonError, parse_json
from vidtune.foreign.files import CONTENT_LIMIT, open_foreign, reading, regular
from vidtune.machine.files import disk_errors, write_text_atomically
from vidtune.machine.locks import LockUnavailableError, locked

Made = TypeVar("Made")
SYNC_SECONDS = 5.0
_REFUSAL = "another process is writing this file; wait for it or stop it"
_BLOCK = 65536


class RecordWriter:
    """Appends records to a file. May be used from several threads.

    The operating system has a record as soon as ``append`` returns: it outlives the process. Records are forced to disk
    every few seconds and when the writer is closed.

    Args:
        path: file; created with its folder if missing.
        shared: several processes may append at the same time, each record or list of records in one piece. Otherwise
            the writer holds the lock of the file until it is closed.
        durable: records outlive a loss of power; False for caches, whose records can be made again.

    Raises:
        UserError: another process is writing the file, and it is not shared; or it is no regular file, or too long.
    """

    def __init__(self, path: Path, *, shared: bool = False, durable: bool = True) -> None:
        self.path = path
        self._shared, self._durable = shared, durable
        self._thread_lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            if not shared:
                held.enter_context(locked(path, refusal=_REFUSAL))
            if path.exists():
                regular(path, limit=CONTENT_LIMIT)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._file = os.open(path, flags, 0o644)
            held.callback(os.close, self._file)
            if not shared:
                _cut_torn_line(self._file)
            self._held = held.pop_all()
        self._synced = time.monotonic()

    def append(self, record: Any) -> None:
        """Write one record as one line, its keys in the order given."""
        self.append_all([record])

    def append_all(self, records: Iterable[Any]) -> None:
        """Write several records in one piece: no record of another process comes between them.

        Raises:
            UserError: the disk is full.
        """
        data = "".join(_line(record) for record in records).encode("utf-8", "backslashreplace")
        if not data:
            return
        with self._thread_lock, disk_errors(self.path), ExitStack() as turn:
            if self._shared:
                self._prepare_shared(turn)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            if self._durable and time.monotonic() - self._synced >= SYNC_SECONDS:
                os.fsync(self._file)
                self._synced = time.monotonic()

    def _prepare_shared(self, turn: ExitStack) -> None:
        """Take this writer's turn, and separate what follows from a torn line of a killed process."""
        try:
            turn.enter_context(locked(self.path))
        except LockUnavailableError:
            # Another process may be writing: its line must not be cut off. A reader skips what this leaves.
            if not _ends_whole(self._file):
                os.write(self._file, b"\n")
        else:
            _cut_torn_line(self._file)

    def close(self) -> None:
        """Force the records to disk and release the file. Closing twice is allowed."""
        with self._thread_lock:
            held, self._held = self._held, ExitStack()
            with held, disk_errors(self.path):
                if self._file >= 0 and self._durable:
                    os.fsync(self._file)
                self._file = -1

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Replace the file by these records in one step."""
    write_text_atomically(path, "".join(_line(record) for record in records))


def read_records(path: Path, *, skip_broken: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the records of the complete lines of a file, in order; nothing when the file does not exist.

    Args:
        skip_broken: ignore complete lines that are no JSON objects, as in caches that any process may append to.

    Raises:
        UserError: a complete line is not a JSON object; names the line and column.
    """
    for _, record in numbered_records(path, skip_broken=skip_broken):
        yield record


def numbered_records(path: Path, *, skip_broken: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of the line, from 1, and the record of each complete line of a file. See `read_records`."""
    for number, record in _numbered_values(path, skip_broken):
        if isinstance(record, dict):
            yield number, record
        elif not skip_broken:
            raise UserError(f"{path}: line {number}: not valid JSON (expected an object)")


def read_as(path: Path, make: Callable[[dict[str, Any]], Made]) -> Iterator[Made]:
    """Yield what a function makes of each record of a file; see `read_records`.

    Raises:
        UserError: the function does not take a record, whatever it raises; names the line.
    """
    for number, record in numbered_records(path):
        with reading(path, place=f"line {number}: "):
            made = make(record)
        yield made


def read_values(path: Path, *, skip_broken: bool = False) -> Iterator[Any]:
    """Yield the JSON values, of any type, of the complete lines of a file. See `read_records`."""
    for _, value in _numbered_values(path, skip_broken):
        yield value


class RecordFollower:
    """Reads the records that processes append to a file, as they come. Lines that are no JSON objects are skipped.

    Args:
        path: file; need not exist yet.

    Attributes:
        skipped: number of complete lines that were no JSON objects.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped = 0
        self._position = 0

    def new_records(self) -> list[dict[str, Any]]:
        """Return the records appended since the last call; all of them if the file has become shorter."""
        if not self.path.exists():
            return []
        with open_foreign(self.path, limit=CONTENT_LIMIT) as file:
            if os.fstat(file.fileno()).st_size < self._position:
                self._position = 0
            file.seek(self._position)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._position += len(whole)
        records = []
        for line in whole.split(b"\n")[:-1]:
            try:
                record = parse_json(line, long_integers=True)
            except JsonError:
                record = None
            if isinstance(record, dict):
                records.append(record)
            else:
                self.skipped += 1
        return records


def _numbered_values(path: Path, skip_broken: bool) -> Iterator[tuple[int, Any]]:
    """Yield line numbers, from 1, and the values of the complete lines."""
    if not path.exists():
        return
    with open_foreign(path, limit=CONTENT_LIMIT) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                value = parse_json(line, line=number, long_integers=True)
            except JsonError as error:
                if skip_broken:
                    continue
                raise UserError(f"{path}: {error}") from None
            yield number, value


def _line(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _cut_torn_line(file: int) -> None:
    """Cut off what follows the last line end of a file."""
    if not _ends_whole(file):
        os.ftruncate(file, _whole_length(file))


def _ends_whole(file: int) -> bool:
    """Whether the file is empty or ends with a line end."""
    end = os.lseek(file, 0, os.SEEK_END)
    return end == 0 or _read_at(file, end - 1, 1) == b"\n"


def _whole_length(file: int) -> int:
    """Return the length in bytes of the file up to and including its last line end."""
    end = os.lseek(file, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK)
        found = _read_at(file, start, end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _read_at(file: int, start: int, count: int) -> bytes:
    os.lseek(file, start, os.SEEK_SET)
    return os.read(file, count)
