"""Files that clients send before they ask about them, found again by their ids."""

import hashlib
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtune.serving.files.recent import Recent
from vidtune.serving.files.uploads import Upload
from vidtune.serving.limits import Limits
from vidtune.serving.problems import ApiProblem, storing

_PARAM = "file"
_ID = re.compile(r"file-[0-9a-f]{32}")


def is_file_id(text: str) -> bool:
    """Whether a text has the form of the id of a file."""
    return _ID.fullmatch(text) is not None


@dataclass
class StoredFile:
    """A file by its id.

    Args:
        id: its id, which nobody can guess.
        name: its name where it came from; says nothing about this machine.
        purpose: as the client gave it.
        upload: the file.
        created: seconds since 1970.
    """

    id: str
    name: str
    purpose: str
    upload: Upload
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def facts(self) -> dict[str, Any]:
        """The file as OpenAI's API describes it."""
        facts = {"id": self.id, "object": "file", "bytes": self.upload.size, "created_at": self.created}
        return {**facts, "filename": self.name, "purpose": self.purpose, "status": "processed"}


class StoredFiles:
    """Keeps files in a temporary folder, which goes with this object. Used in one event loop.

    Files that nobody asked for within `Limits.files_seconds` go when `let_old_go` is called, and where a new one needs
    room, those that were not asked for longest. A file that a request holds stays on the disk until its end.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._folder = tempfile.TemporaryDirectory(prefix="vidtune-files-", ignore_cleanup_errors=True)
        self._files: Recent[StoredFile] = Recent(limits.files_seconds)
        self._arriving = 0

    def __len__(self) -> int:
        return len(self._files)

    @property
    def used(self) -> int:
        """Bytes of all files, also of those that arrive."""
        return self._arriving + sum(one.upload.size for one in self._files.values())

    def find(self, id: str) -> StoredFile:
        """Returns a file, which becomes the last to go. Raises ApiProblem (404) if it is not there."""
        found = self._files.use(id)
        if found is None:
            message = f"the file {id[:80]!r} is not here, or no longer; send it again"
            raise ApiProblem(404, message, code="file_not_found", param="file_id")
        return found

    def remove(self, id: str) -> None:
        """Let a file go. Raises ApiProblem (404) if it is not there."""
        self._files.remove(self.find(id).id)

    def let_old_go(self) -> float:
        """Let files go that nobody asked for in their time. Returns the seconds until the next one may be."""
        return self._files.let_old_go()

    @contextmanager
    def arriving(self) -> "Iterator[Arrival]":
        """Room for a new file, as it arrives; what `Arrival.keep` did not keep goes again."""
        arrival = Arrival(self, Path(self._folder.name) / secrets.token_hex(16))
        try:
            yield arrival
        finally:
            self._arriving -= arrival.size
            arrival.close()

    def _add(self, file: StoredFile) -> None:
        self.let_old_go()
        self._files.put(file.id, file)
        while len(self._files) > self.limits.files:
            self._files.let_first_go()

    def _take_room(self, number: int) -> None:
        self._arriving += number
        if self._arriving > self.limits.files_bytes:
            raise ApiProblem(429, "other files that arrive take all the room; try again later", retry_after=10)
        while self.used > self.limits.files_bytes:
            self._files.let_first_go()


class Arrival:
    """A file that arrives.

    Attributes:
        size: its bytes so far.
    """

    def __init__(self, files: StoredFiles, path: Path) -> None:
        self.size = 0
        self._files, self._path = files, path
        with storing(_PARAM):
            self._file, self._digest = path.open("wb"), hashlib.sha256()

    def take(self, piece: bytes) -> None:
        """Write the next piece.

        Raises:
            ApiProblem: the file becomes too large (413), other files take all the room (429), the disk is full (507).
        """
        most = self._files.limits.media_bytes
        if self.size + len(piece) > most:
            raise ApiProblem(413, f"the file is larger than {most:,} bytes", code="file_too_large", param=_PARAM)
        self.size += len(piece)
        self._files._take_room(len(piece))
        with storing(_PARAM):
            self._file.write(piece)
        self._digest.update(piece)

    def keep(self, name: str, purpose: str) -> StoredFile:
        """Keep the whole file. Raises ApiProblem if it is empty, or the disk is full."""
        if not self.size:
            raise ApiProblem(400, "the file is empty", code="empty_file", param=_PARAM)
        with storing(_PARAM):
            self._file.close()
            path = self._path.rename(self._path.with_name(f"{self._digest.hexdigest()}.{self._path.name}"))
        found = StoredFile(f"file-{secrets.token_hex(16)}", name, purpose, Upload(path, self.size))
        self._files._add(found)
        return found

    def close(self) -> None:
        """Remove what was not kept."""
        with suppress(OSError):  # no room for its last bytes, which nobody needs
            self._file.close()
        self._path.unlink(missing_ok=True)
