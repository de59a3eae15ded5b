"""Resolves paths in annotations: relative to a media root, which they must not leave, also not by symbolic links."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from vidtune.data.problems import SampleProblem
from vidtune.foreign.containment import is_inside, stays_below

LISTINGS_KEPT = 64
SHOWN = 300
"""Characters of a path that a message shows."""


def resolve(root: Path | None, relative: str) -> str:
    """Returns the absolute path of a file that an annotation names; the file need not exist.

    Args:
        root: media root; None: the data source has none.

    Raises:
        SampleProblem: the path is absolute, contains "..", or leaves the root through a symbolic link.
    """
    if root is None:
        raise SampleProblem("no media folder", f"{relative!r} is named but the data source has no media folder")
    _check_relative(root, relative)
    base = os.path.realpath(root)
    target = os.path.realpath(os.path.join(base, relative))  # noqa: PTH118
    if not is_inside(target, base):
        raise SampleProblem("unsafe path", f"{relative!r} leads out of the media folder {root} through a symbolic link")
    return target


class MediaRoot:
    """Finds files below a folder. Each subfolder is listed once, so that a lookup needs no call of the file system.

    Files that are created later are not found; a new object finds them.

    Args:
        folder: path of the folder; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listings: dict[str, tuple[str, frozenset[str], frozenset[str]]] = {}

    def find(self, name: str, suffixes: Sequence[str] = ("",)) -> str | None:
        """Returns the absolute path of the first existing ``name + suffix``; None: none exists.

        Raises:
            SampleProblem: see `resolve`.
        """
        _check_relative(self.folder, name)
        parent, stem = os.path.split(name)
        if parent not in self._listings:
            self._listings[parent] = self._list(parent)
        base, names, links = self._listings[parent]
        for suffix in suffixes:
            found = stem + suffix
            if found in links:
                return resolve(self.folder, name + suffix)
            if found in names:
                return f"{base}/{found}"
        return None

    def fingerprint(self) -> str:
        """Returns a hash of the names of all files below the folder."""
        digest = hashlib.sha256()
        for line in sorted(_files_below(str(self.folder), "")):
            digest.update(line.encode(errors="surrogateescape") + b"\n")
        return digest.hexdigest()

    def _list(self, parent: str) -> tuple[str, frozenset[str], frozenset[str]]:
        base = resolve(self.folder, parent) if parent else os.path.realpath(self.folder)
        try:
            modified = os.stat(base).st_mtime_ns  # noqa: PTH116
        except OSError:
            return base, frozenset(), frozenset()
        return base, *_names_in(base, modified)


def _check_relative(root: Path, relative: str) -> None:
    if not stays_below(relative):
        raise SampleProblem("unsafe path", f"{relative[:SHOWN]!r} is not a path below the media folder {root}")


@lru_cache(maxsize=LISTINGS_KEPT)
def _names_in(folder: str, modified: int) -> tuple[frozenset[str], frozenset[str]]:
    """Names in a folder, and those of them that are symbolic links; the cache is shared by all objects."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_symlink()) for entry in entries]
    except OSError:
        found = []
    return frozenset(name for name, _ in found), frozenset(name for name, link in found if link)


def _files_below(folder: str, relative: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:
        return
    for entry in found:
        name = f"{relative}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(entry.path, f"{name}/")
        else:
            yield name
