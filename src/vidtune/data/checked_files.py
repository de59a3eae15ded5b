"""Remembers which media files were found good, so that a check that was stopped need not look at them again."""

import json
import os
from pathlib import Path

Key = tuple[str, int, int, str]


class CheckedFiles:
    """Files found good, in an append-only JSONL sidecar, keyed by path, size, modification time and what was checked.

    A line torn by a killed process is ignored. Bad files are not kept: the next check looks again.

    Args:
        sidecar: the file; need not exist.
    """

    def __init__(self, sidecar: Path) -> None:
        self.sidecar = sidecar
        self._kinds: dict[Key, str] = {}
        content = sidecar.read_bytes() if sidecar.is_file() else b""
        self._torn = bool(content) and not content.endswith(b"\n")
        for line in content.splitlines():
            try:
                path, size, mtime_ns, checked, kind = json.loads(line)
            except ValueError:
                continue
            self._kinds[path, size, mtime_ns, checked] = kind

    def kind(self, path: str, checked: str) -> str | None:
        """The kind of a file that passed a check and has not changed since; None if it must be looked at.

        Args:
            checked: name of the check.
        """
        key = _key(path, checked)
        return self._kinds.get(key) if key else None

    def add(self, path: str, checked: str, kind: str) -> None:
        """Record that a file passed a check."""
        key = _key(path, checked)
        if key is None or key in self._kinds:
            return
        self._kinds[key] = kind
        self.sidecar.parent.mkdir(parents=True, exist_ok=True)
        with self.sidecar.open("ab") as file:
            file.write((b"\n" if self._torn else b"") + json.dumps([*key, kind]).encode() + b"\n")
        self._torn = False


def _key(path: str, checked: str) -> Key | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return path, status.st_size, status.st_mtime_ns, checked
