"""Version of a media file: what the file system tells of it without opening it. Another version: other content.

Facts about a file (metadata, tokens, the result of a check) are kept with its path and this version, and found anew
when the version is another one. Features, which travel between machines, have an identity made of content as well
(:mod:`vidtune.media.kept.identity`).
"""

import hashlib
import os
import stat

FileVersion = tuple[int, int, int]
GONE: FileVersion = (-1, -1, -1)


def file_version(path: str | os.PathLike[str]) -> FileVersion:
    """Return size, time of modification and time of change in nanoseconds.

    The time of change cannot be set, so a file that was replaced by one of the same size and modification time has
    another version. Of a folder of frames: number of files, hash of their names and versions, 0.

    Raises:
        OSError: the file does not exist or cannot be looked at.
    """
    status = os.stat(path)  # noqa: PTH116
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns
    with os.scandir(path) as entries:
        files = sorted((entry for entry in entries if entry.is_file()), key=lambda entry: entry.name)
    digest = hashlib.sha256()
    for file in files:
        of = file.stat()
        digest.update(f"{file.name} {of.st_size} {of.st_mtime_ns} {of.st_ctime_ns}\n".encode(errors="surrogateescape"))
    return len(files), int.from_bytes(digest.digest()[:7]), 0


def version_of(path: str) -> FileVersion:
    """Return the version of a file, `GONE` if it cannot be looked at."""
    try:
        return file_version(path)
    except OSError:
        return GONE
