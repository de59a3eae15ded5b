"""Cache of decoded media on disk: what preprocessing made of a file, found by its content and the settings.

A second benchmark about the same videos, another model with the same preprocessing, or the next epoch reads what was
decoded. One entry is one file, written in one step, with a checksum: an entry that is damaged is said, deleted and made
anew. Any number of processes may share a folder.

Nothing is kept where reading would hardly save time: see `WORTH` and `Decoded.key`. When the folder is full, entries
that were not used for a day make room; if there are none, nothing more is kept. So a data set that is larger than the
folder keeps a part of its files in every epoch, instead of replacing all of them each time.
"""

import hashlib
import json
import math
import os
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import PIL
import torch

from vidtune.machine.files import remove_leftovers, temporary_beside
from vidtune.media.feature_file import is_feature_file
from vidtune.media.kept.identity import MediaIdentities
from vidtune.media.kept.place import ENDING, DecodedFolder, beginning
from vidtune.media.preprocessing.kinds import Preprocessing, parts_of
from vidtune.spelling import damaged

MOST_OF_DISK = 0.1
"""Largest part of the free disk that the folder may take."""
RULES = 2
"""Part of every key. Increase it when a release changes what preprocessing makes of a file of the same settings, or to
an entry."""
MAGIC = b"vidtune decoded 2\n"
"""Begins an entry; then its checksum, eight digits and a line end, over what follows: a header and the arrays."""
WORTH, READ_BYTES_A_SECOND, LEAST_SECONDS = 2.0, 1e9, 0.01
"""An entry is kept if decoding took so many times the time of reading it, and `LEAST_SECONDS` more."""
UNUSED_SECONDS = 24 * 3600.0
"""Seconds without use after which an entry may make room for others."""
TOUCH_SECONDS = 3600.0
"""Age in seconds of the time stamp of an entry, which holds its last use, from which on reading renews it."""
FULL_SECONDS = 60.0
"""Seconds after which a process looks again whether a full folder has room."""
LEFT_BEHIND_SECONDS = 3600.0
"""Age in seconds from which on a temporary file is taken for one that a killed process has left."""


class Arrays(NamedTuple):
    """Arrays of an entry; ``names``: those of the last ones, None if they have none."""

    arrays: list[np.ndarray]
    names: tuple[str, ...] | None


@cache
def opened(folder: DecodedFolder) -> "Decoded":
    """The folder as this process uses it."""
    return Decoded(folder)


@dataclass
class Decoded:
    """The cache of decoded media, as one process uses it.

    Attributes:
        notes: what the user should know, each said once; taken by `said`.
    """

    place: DecodedFolder
    notes: list[str] = field(default_factory=list)
    _room: int = 0
    _look_again: float = 0.0
    _identities: MediaIdentities = field(default_factory=MediaIdentities)

    def key(self, path: str, preprocessing: Sequence[Preprocessing], asked: Any) -> str | None:
        """Returns the name of an entry; None: nothing is kept of it.

        Nothing is kept of feature files, of blind preprocessing, and of preprocessing with parts that another package
        or a call has registered: their code may change behind their name.

        Args:
            preprocessing: the settings of every array of the entry.
            asked: what else decides the entry, such as the part of the file that is read.
        """
        if is_feature_file(path) or any(_is_changing(settings) for settings in preprocessing):
            return None
        content = self._identities.of(path)
        if content is None:
            return None
        made_by = {
            "rules": RULES,
            "preprocessing": [settings.model_dump(mode="json") for settings in preprocessing],
            "asked": repr(asked),
            "versions": [av.__version__, PIL.__version__, torch.__version__],
        }
        digest = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()
        return f"{beginning(content)}{digest[:16]}"

    def find(self, key: str, path: str) -> Arrays | None:
        """Returns the arrays of an entry; None: there is none. One that is damaged is deleted, and said.

        Args:
            path: the media file, for the message.
        """
        entry = self._entry(key)
        try:
            with entry.open("rb") as file:
                content = bytearray(os.fstat(file.fileno()).st_size)  # not bytes: results may be written to
                file.readinto(content)
            found = _read(content)
            if time.time() - entry.stat().st_mtime > TOUCH_SECONDS:
                os.utime(entry)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.notes.append(damaged(entry, error, f"{path} is decoded again"))
            with suppress(OSError):
                entry.unlink()
            return None
        return found

    def keep(self, key: str, arrays: Arrays, seconds: float) -> None:
        """Keep an entry, if reading it saves time and there is room.

        Args:
            seconds: time that it took to decode and preprocess the file.
        """
        size = sum(array.nbytes for array in arrays.arrays)
        if seconds < WORTH * size / READ_BYTES_A_SECOND + LEAST_SECONDS:
            return
        try:
            if self._room < size and time.monotonic() >= self._look_again:
                self._room = self._make_room(size)
                if not self._room:
                    self._look_again = time.monotonic() + FULL_SECONDS
            if self._room < size:
                return
            self._write(self._entry(key), arrays)
            self._room -= size
        except OSError as error:
            self._room, self._look_again = 0, math.inf
            self.notes.append(f"{self.place.folder}: decoded media are not kept: {error.strerror or error}")

    def said(self) -> str | None:
        """Returns what is to be said, once."""
        found, self.notes = self.notes, []
        return "; ".join(found) or None

    def _entry(self, key: str) -> Path:
        return Path(self.place.folder) / f"{key}{ENDING}"

    def _write(self, entry: Path, arrays: Arrays) -> None:
        whole = [np.ascontiguousarray(array) for array in arrays.arrays]
        header = {"arrays": [[list(array.shape), array.dtype.str] for array in whole], "names": arrays.names}
        parts: list[bytes | memoryview] = [json.dumps(header).encode() + b"\n"]
        parts += [array.reshape(-1).view(np.uint8).data for array in whole]
        temporary = temporary_beside(entry)
        try:
            with temporary.open("wb") as file:
                file.write(MAGIC + _checksum(*parts))
                for part in parts:
                    file.write(part)
            os.replace(temporary, entry)  # noqa: PTH105 - no wait for the disk: the checksum tells a torn entry
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, size: int) -> int:
        """Delete entries that were not used for long. Returns bytes that this process may write before it looks again.

        That is a part of the room: other processes write too.
        """
        folder = Path(self.place.folder)
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder, LEFT_BEHIND_SECONDS)
        entries = []
        for path in folder.glob(f"*{ENDING}"):
            with suppress(OSError):
                status = path.stat()
                entries.append((status.st_mtime, status.st_size, path))
        total = sum(of for _, of, _ in entries)
        disk = os.statvfs(folder)
        limit = min(self.place.limit, int(total + MOST_OF_DISK * disk.f_bavail * disk.f_frsize))
        if total + size > limit:
            for used, of, path in sorted(entries):
                if total + size <= 0.9 * limit or time.time() - used < UNUSED_SECONDS:
                    break
                with suppress(OSError):
                    path.unlink()
                    total -= of
        room = limit - total
        return max(room // 16, size) if size <= room else 0


def _is_changing(settings: Preprocessing) -> bool:
    """Whether the settings do not say all that decides the result, or it is nothing worth keeping."""
    own = all(
        name in registry and name not in registry.called and registry.package(name) == "vidtune"
        for registry, name in parts_of(settings)
    )
    return getattr(settings, "blind", False) or not own


def _checksum(*parts: bytes | memoryview) -> bytes:
    found = 0
    for part in parts:
        found = zlib.crc32(part, found)
    return b"%08x\n" % found


def _read(content: bytearray) -> Arrays:
    """The arrays of an entry. Raises ValueError or KeyError if it is no entry, or not whole."""
    if not content.startswith(MAGIC):
        raise ValueError("no entry")
    begin = len(MAGIC) + len(_checksum())
    # First of all: a header that is damaged could have any form, and another meaning.
    if content[len(MAGIC) : begin] != _checksum(memoryview(content)[begin:]):
        raise ValueError("its checksum is another one")
    end = content.index(b"\n", begin) + 1
    header = json.loads(content[begin:end])
    arrays, place = [], end
    for shape, kind in header["arrays"]:
        dtype = np.dtype(kind)
        count = int(np.prod(shape, dtype=np.int64))
        arrays.append(np.frombuffer(content, dtype, count, place).reshape(shape))
        place += count * dtype.itemsize
    return Arrays(arrays, None if header["names"] is None else tuple(header["names"]))
