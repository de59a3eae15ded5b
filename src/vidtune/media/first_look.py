"""Checks before a media file is opened, and the translation of low-level errors into messages for the user."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import av

from vidtune.errors import PASSED, MediaError, UnreadMediaError, UserError
from vidtune.foreign.files import open_foreign

OF_THE_MACHINE = {
    errno.EIO,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOSPC,
    errno.EAGAIN,
    errno.EINTR,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.ENETDOWN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ECONNRESET,
    errno.ENODEV,
    errno.EREMOTEIO,
}
"""Errors of the file system that say nothing about the file: disk, network disk, open files, memory."""


class OtherReading(Exception):
    """The file has to be read in another way. Raised between our own readers; it passes `media_errors`."""


@contextmanager
def media_errors(path: str) -> Iterator[None]:
    """Context manager around the libraries that read a media file: whatever they raise becomes a `MediaError` of it.

    What the machine is to blame for becomes an `UnreadMediaError`. A UserError, an `OtherReading` and errors of the GPU
    pass.
    """
    try:
        yield
    except (UserError, OtherReading):
        raise
    except FileNotFoundError:
        raise MediaError(path, "file does not exist") from None
    except PermissionError:
        raise MediaError(path, "permission denied") from None
    except IsADirectoryError:
        raise MediaError(path, "is a folder, not a file") from None
    except av.FFmpegError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT):
            raise UnreadMediaError(path, f"cannot be read ({error.strerror})") from None
        raise MediaError(path, f"cannot be decoded ({error.strerror}); the file is damaged or cut off") from None
    except OSError as error:
        kind = UnreadMediaError if error.errno in OF_THE_MACHINE else MediaError
        raise kind(path, f"cannot be read ({error.strerror or error})") from None
    except MemoryError:
        raise MediaError(path, "needs more memory than the machine has") from None
    except Exception as error:  # readers of damaged files raise errors of many types
        if any(base.__name__ in PASSED for base in type(error).__mro__):
            raise
        raise MediaError(path, f"is damaged ({' '.join(str(error).split()) or type(error).__name__})") from error


def is_folder(path: str) -> bool:
    """Whether a path leads to a folder. A path that no file can have does not: who opens it learns why."""
    return os.path.isdir(path)  # noqa: PTH112 - that of pathlib raises where a name is too long


def check_file(path: str, root: str | None = None) -> None:
    """Refuse a file that no library needs to look at.

    Args:
        root: folder that must hold the file, also after symbolic links; None: it may lie anywhere.

    Raises:
        OSError: missing, not readable, or a folder; `media_errors` translates it.
        MediaError: empty, a pipe or a device, or outside the root.
    """
    status = Path(path).stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if status.st_size == 0 and stat.S_ISREG(status.st_mode):
        raise MediaError(path, "file is empty")
    open_file(path, root).close()


def open_file(path: str, root: str | None = None) -> BinaryIO:
    """Open a media file for reading. It is a regular file: a pipe or a device would hang.

    Args:
        root: see `check_file`.

    Raises:
        OSError: it cannot be opened; `media_errors` translates it.
        MediaError: it is no regular file, or outside the root.
    """
    try:
        return open_foreign(path, root=root, failure=MediaError)
    except MediaError as error:
        if isinstance(error.__cause__, OSError):  # whose words are those of `media_errors`
            raise error.__cause__ from None
        raise
