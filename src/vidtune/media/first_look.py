"""Checks before a media file is opened, and the translation of low-level errors into messages for the user."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from vidtune.errors import MediaError


@contextmanager
def media_errors(path: str) -> Iterator[None]:
    """Context manager that turns errors of the file system, of FFmpeg and of senseless numbers into `MediaError`."""
    try:
        yield
    except MediaError:
        raise
    except FileNotFoundError:
        raise MediaError(path, "file does not exist") from None
    except PermissionError:
        raise MediaError(path, "permission denied") from None
    except IsADirectoryError:
        raise MediaError(path, "is a folder, not a file") from None
    except av.FFmpegError as error:
        raise MediaError(path, f"cannot be decoded ({error.strerror}); the file is damaged or cut off") from None
    except OSError as error:
        raise MediaError(path, f"cannot be read ({error.strerror or error})") from None
    except MemoryError:
        raise MediaError(path, "needs more memory than the machine has") from None
    except (ValueError, ArithmeticError, IndexError) as error:
        raise MediaError(path, f"is damaged ({' '.join(str(error).split())})") from error


def check_file(path: str) -> None:
    """Refuse a file that no library needs to look at.

    Raises:
        FileNotFoundError, PermissionError: missing, or not readable; `media_errors` translates them.
        MediaError: empty.
    """
    status = Path(path).stat()
    if not os.access(path, os.R_OK):
        raise PermissionError
    if status.st_size == 0 and Path(path).is_file():
        raise MediaError(path, "file is empty")
