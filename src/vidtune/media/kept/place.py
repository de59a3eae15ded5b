"""Where decoded media are kept on disk, see :mod:`vidtune.media.kept.decoded`."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vidtune.errors import UserError
from vidtune.media.kept.identity import MediaIdentities

FOLDER, LIMIT = "VIDTUNE_DECODED", "VIDTUNE_DECODED_GB"
"""Environment variables: folder of the entries ("off": nothing is kept), and its largest size in GB."""
DEFAULT_GB = 10.0
ENDING = ".decoded"
"""Ends the name of the file of an entry."""


@dataclass(frozen=True)
class DecodedFolder:
    """Folder and size of the cache of decoded media.

    Args:
        folder: the folder; created with the first entry.
        limit: largest size of all entries in bytes.
    """

    folder: str
    limit: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "DecodedFolder | None":
        """The folder that the environment names, else one in the user's cache; None: nothing is kept.

        Raises:
            UserError: the size is no number.
        """
        named = environment.get(FOLDER, "")
        if named.lower() in ("off", "0", "none"):
            return None
        home = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or "~").expanduser() / ".cache")
        folder = str(Path(named).expanduser()) if named else str(Path(home) / "vidtune" / "decoded")
        try:
            limit = float(environment.get(LIMIT) or DEFAULT_GB)
            if not 0 <= limit < math.inf:
                raise ValueError
        except ValueError:
            raise UserError(f"{LIMIT}={environment[LIMIT]!r} is no number of GB") from None
        return cls(folder, int(limit) * 10**9 + int(limit % 1 * 1e9)) if limit > 0 else None

    def holds(self, path: str) -> bool:
        """Whether there is an entry of this media file, of whatever settings."""
        content = MediaIdentities().of(path)
        if content is None:
            return False
        try:
            with os.scandir(self.folder) as entries:
                return any(one.name.startswith(beginning(content)) and one.name.endswith(ENDING) for one in entries)
        except OSError:
            return False


def beginning(content: str) -> str:
    """How the names of all entries of a media file begin, by the identity of its content."""
    return f"{content}-"
