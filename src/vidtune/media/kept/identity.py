"""Identities of media files by their content, never by their path."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from vidtune.errors import ForeignFileError
from vidtune.foreign.files import open_foreign
from vidtune.media.file_version import FileVersion, file_version

BLOCK = 32 * 1024
"""Size in bytes of each sampled piece of a file."""
SAMPLED = 3
"""Number of sampled pieces of a file (first, middle, last), or of sampled files of a folder of frames."""


class MediaIdentities:
    """Identities of media files. A file is read again only if its version has changed."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[FileVersion, str]] = {}

    def of(self, path: str) -> str | None:
        """Returns 32 hex digits from size, modification time and pieces of the content; None: it cannot be read.

        The same file under another path has the same identity; a changed file has another.
        """
        try:
            version = file_version(path)
            known = self._known.get(path)
            if known is not None and known[0] == version:
                return known[1]
            parts = _of_folder(Path(path)) if Path(path).is_dir() else _of_file(Path(path), *version[:2])
            digest = hashlib.sha256()
            for part in parts:
                digest.update(part)
        except (OSError, ForeignFileError):
            return None
        name = digest.hexdigest()[:32]
        self._known[path] = (version, name)
        return name


def content_hash(path: str) -> str | None:
    """Returns 32 hex digits from size and pieces of the content, the same for a copy; None: it cannot be read."""
    try:
        folder = Path(path) if Path(path).is_dir() else None
        files = [Path(path)] if folder is None else sorted(folder.iterdir())
        digest = hashlib.sha256(f"{len(files)} ".encode())
        for file in _sampled(files):
            size = file.stat().st_size
            digest.update(f"{size} ".encode())
            for piece in _pieces(file, size, folder):
                digest.update(piece)
    except (OSError, ForeignFileError):
        return None
    return digest.hexdigest()[:32]


def _of_file(path: Path, size: int, mtime_ns: int, folder: Path | None = None) -> Iterator[bytes]:
    yield f"{size} {mtime_ns} ".encode()
    yield from _pieces(path, size, folder)


def _pieces(path: Path, size: int, folder: Path | None) -> Iterator[bytes]:
    """Pieces of a file. Args: folder: which must hold the file, as one of frames its frames."""
    last = max(size - BLOCK, 0)
    with open_foreign(path, root=folder) as file:
        for begin in sorted({last * piece // (SAMPLED - 1) for piece in range(SAMPLED)}):
            yield os.pread(file.fileno(), BLOCK, begin)


def _of_folder(path: Path) -> Iterator[bytes]:
    files = sorted(entry for entry in path.iterdir() if entry.is_file())
    status = {file: file.stat() for file in files}
    yield "".join(f"{file.name} {of.st_size} {of.st_mtime_ns}\n" for file, of in status.items()).encode()
    for file in _sampled(files):
        yield from _of_file(file, status[file].st_size, status[file].st_mtime_ns, path)


def _sampled(files: list[Path]) -> list[Path]:
    """The first, the middle and the last file."""
    last = len(files) - 1
    return (
        [files[place] for place in sorted({last * piece // (SAMPLED - 1) for piece in range(SAMPLED)})] if files else []
    )
