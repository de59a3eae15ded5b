"""Files and folders that appear complete or not at all.

A writer fills a temporary file or folder beside the target. Its name holds a random part, so two writers never share
it, also not on two hosts that share a disk. After all bytes are on disk, the temporary takes the name of the target in
one step. A process that is killed at once (``kill -9``) leaves its temporary behind; ``remove_leftovers`` deletes
those, and nothing else. A temporary folder is locked while its writer lives: the next writer of the same folder deletes
what dead ones have left.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from pathlib import Path
from types import FrameType
from typing import Any

from vidtune.errors import UserError

_LEFTOVER = re.compile(r"\..*\.[0-9a-f]{32}\.partial")
_FULL = re.compile(r"No space left on device|Disk quota exceeded|StorageFull|QuotaExceeded")
_TORCH_WRITES = "inline_container"
"""Part of the errors of ``torch.save``, which do not say why a file could not be written."""
_NO_SPACE = 2**16
"""Bytes: a disk with fewer free ones counts as full."""
_NAME_LENGTH = 100
"""Characters of the target's name that the temporary name repeats; file systems allow 255 bytes in all."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Context manager that replaces a file in one step: a reader sees the old content or the new, never a part.

    Yields the path of a temporary file that the block must create. It lies in the folder of ``path`` (which is created
    if missing) and does not end with the suffix of ``path``: give the format to libraries that guess it from the name.
    If the block raises, the temporary is removed and ``path`` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with disk_errors(path):
            yield temporary
            move_into_place(temporary, path)
    finally:
        with suppress(OSError):  # what was wrong before is told
            temporary.unlink()


def require_text(path: Path) -> None:
    """Raise UserError for a path that is no text of UTF-8: libraries that read and write models open no such path."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{path}: its name is no UTF-8 text, and libraries cannot open files there; rename it"
        ) from None


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Context manager that makes a folder which is there complete or not at all.

    Yields the path of an empty temporary folder beside ``path``. If the block raises, or the process is told to end
    (SIGTERM), the temporary is removed. Whoever may read the folder may read its files, also those that a library wrote
    for their owner alone.

    Raises:
        FileExistsError: ``path`` exists and is not an empty folder.
        UserError: the disk is full, or the path is no UTF-8 text.
    """
    require_text(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{escape(path.name[:_NAME_LENGTH])}.*.partial"):
        with suppress(OSError):  # another user's, or gone in the meantime
            if _LEFTOVER.fullmatch(left.name) and left.is_dir():
                with _writer_lock(left) as is_dead:
                    if is_dead:
                        shutil.rmtree(left, ignore_errors=True)
    with ended_in_order(), disk_errors(path), _locked_temporary(path) as temporary:
        try:
            yield temporary
            readable = temporary.stat().st_mode & 0o666
            for file in temporary.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    file.chmod(file.stat().st_mode | readable)
            move_into_place(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _locked_temporary(path: Path) -> Iterator[Path]:
    """Context manager that makes and locks an empty temporary folder beside ``path``.

    Before it is locked, another writer may take it for a dead one's and delete it. Then another one is made.
    """
    while True:
        temporary = temporary_beside(path)
        temporary.mkdir()
        with ExitStack() as stack:
            try:
                is_locked = stack.enter_context(_writer_lock(temporary))
            except FileNotFoundError:
                continue
            if is_locked is not False and temporary.is_dir():
                yield temporary
                return


@contextmanager
def _writer_lock(folder: Path) -> Iterator[bool | None]:
    """Context manager that locks a folder, until the process ends. Yields whether nobody else holds the lock; None: the
    file system has no locks of folders."""
    descriptor = os.open(folder, os.O_RDONLY)
    is_locked: bool | None = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_locked = False
        except OSError:
            is_locked = None
        yield is_locked
    finally:
        os.close(descriptor)


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Context manager in which SIGTERM raises SystemExit, so that the process cleans up before it ends.

    Changes nothing where the signal is handled already, or in another thread than the main one.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Context manager that turns whatever a library raises on a full disk into an error of one line.

    Raises:
        UserError: the disk of ``path`` is full, or a quota is used up.
        OSError: anything else is wrong with the disk; names ``path`` unless it names another file.
    """
    try:
        yield
    except Exception as error:
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _FULL.search(str(error)) is not None
        if is_full or (_TORCH_WRITES in str(error) and shutil.disk_usage(path.parent).free < _NO_SPACE):
            raise UserError(f"{path}: cannot be written, the disk is full or a quota is used up") from None
        if isinstance(error, OSError) and (error.filename is None or _LEFTOVER.search(str(error.filename))):
            error.filename = str(path)
        raise


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file in UTF-8 in one step. Lone surrogates, which UTF-8 cannot hold, become escapes."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_json_atomically(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write a JSON file in one step.

    Args:
        indent: spaces of indentation; None writes one line.
    """
    write_text_atomically(path, json.dumps(value, indent=indent) + "\n")


def looked_for(path: str | Path) -> str:
    """Return what an error message adds to a relative path: the folder from which it was looked for."""
    return "" if Path(path).is_absolute() else f" (looked for in {Path.cwd()})"


def temporary_beside(path: Path) -> Path:
    """Return a new name in the folder of ``path``, unique over processes and hosts. Nothing is created."""
    return path.with_name(f".{path.name[:_NAME_LENGTH]}.{uuid.uuid4().hex}.partial")


def move_into_place(temporary: Path, path: Path) -> None:
    """Give a complete file or folder its final name, after all its bytes are on disk.

    Raises:
        FileExistsError: a folder would take the place of a file or of a folder that is not empty.
    """
    is_folder = temporary.is_dir()
    for written in [*temporary.rglob("*"), temporary] if is_folder else [temporary]:
        force_to_disk(written)
    try:
        os.replace(temporary, path)  # noqa: PTH105 - Path.replace says the same; this is the documented atomic call
    except OSError as error:
        if is_folder and error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(error.errno, "exists already", str(path)) from None
        raise
    force_to_disk(path.parent)


def force_to_disk(path: Path) -> None:
    """Wait until the content of a file, or the list of names in a folder, outlives a loss of power."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():  # Windows opens no folders
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, older_than: float = 0.0) -> None:
    """Delete the temporaries that killed processes left in a folder. Other files are not touched, whatever their name.

    Args:
        older_than: seconds since the last change; use it where another process may be writing into the folder now.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if not _LEFTOVER.fullmatch(path.name):
            continue
        with suppress(OSError):
            if time.time() - path.stat().st_mtime < older_than:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
