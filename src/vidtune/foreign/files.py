"""Opens files that others wrote: regular files only. Pipes, devices, sockets and folders are refused at once.

Every reader of such a file goes through here: `open_foreign` and `read_foreign`, or `regular` just before a library
opens the file by its name. `reading` gives the errors of a library the name of the file.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from vidtune.errors import PASSED, ForeignFileError, UserError
from vidtune.foreign.containment import is_inside

CONTENT_LIMIT = 2**34
"""Bytes of a file that is read into memory as a whole."""
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_OTHERS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_SHOWN = 300
"""Characters of a library's message."""


def open_foreign(
    path: str | Path,
    *,
    root: str | Path | None = None,
    limit: int | None = None,
    failure: type[ForeignFileError] = ForeignFileError,
) -> BufferedReader:
    """Open a file for reading.

    Args:
        path: file.
        root: folder that must hold the file, also after symbolic links; None: the file may lie anywhere.
        limit: most bytes that the file may have; None: any number.
        failure: what is raised.

    Raises:
        ForeignFileError: the file cannot be opened, is no regular file, lies outside the root, or is too long.
    """
    with reading(path, failure):
        _require_regular(path, os.stat(path), limit, failure)  # noqa: PTH116 - opening a device may act on it
        descriptor = os.open(path, _FLAGS)  # the other kinds that may have come in the meantime do not block
        try:
            _require_regular(path, os.fstat(descriptor), limit, failure)
            if root is not None:
                _require_inside(path, _place_of(descriptor, path), root, failure)
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise


def read_foreign(
    path: str | Path,
    *,
    root: str | Path | None = None,
    limit: int = CONTENT_LIMIT,
    failure: type[ForeignFileError] = ForeignFileError,
) -> bytes:
    """Return the content of a file; see `open_foreign`."""
    with open_foreign(path, root=root, limit=limit, failure=failure) as file, reading(path, failure):
        # Python sets aside as many bytes as it is asked for: no more than the file holds, then what was appended since.
        content = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
        while len(content) <= limit and (more := file.read(2**20)):
            content += more
        if len(content) > limit:
            raise failure(str(path), _too_long(len(content), limit))
        return content


def regular(
    path: str | Path,
    *,
    root: str | Path | None = None,
    limit: int | None = None,
    failure: type[ForeignFileError] = ForeignFileError,
) -> Path:
    """Return the path of a file that a library will open by its name, after the checks of `open_foreign`."""
    open_foreign(path, root=root, limit=limit, failure=failure).close()
    return Path(path)


@contextmanager
def reading(path: str | Path, failure: type[ForeignFileError] = ForeignFileError, *, place: str = "") -> Iterator[None]:
    """Context manager that turns whatever a library raises for a file into a failure of this file.

    A UserError passes as it is, and so do errors of the GPU.

    Args:
        path: file that is read inside.
        failure: what is raised.
        place: what is read of the file, as "line 3: ".
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError):
            raise
        if not isinstance(error, MemoryError) and any(base.__name__ in PASSED for base in type(error).__mro__):
            raise
        raise failure(str(path), f"{place}cannot be read ({_what(error)})") from error


def _what(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_SHOWN]}{'...' if len(text) > _SHOWN else ''}".removesuffix(": ")


def _require_regular(
    path: str | Path, found: os.stat_result, limit: int | None, failure: type[ForeignFileError]
) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise failure(str(path), f"is {_OTHERS.get(stat.S_IFMT(found.st_mode), 'something else')}, not a file")
    if limit is not None and found.st_size > limit:
        raise failure(str(path), _too_long(found.st_size, limit))


def _require_inside(path: str | Path, place: str, root: str | Path, failure: type[ForeignFileError]) -> None:
    if not is_inside(place, root):
        raise failure(str(path), f"leads out of {root} through a symbolic link")


def _place_of(descriptor: int, path: str | Path) -> str:
    """The path, without symbolic links, of the file that was opened."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
    except OSError:  # not Linux
        return os.path.realpath(path)


def _too_long(found: int, limit: int) -> str:
    return f"has {found:,} bytes, more than the {limit:,} that such a file may have"
