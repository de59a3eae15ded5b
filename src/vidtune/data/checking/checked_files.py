"""Remembers which media files passed a check, so that a check that was stopped does not read them again."""

from contextlib import suppress
from pathlib import Path
from types import TracebackType

from vidtune.machine.records import RecordWriter, read_values
from vidtune.media.file_version import file_version

Key = tuple[str, int, int, int, str]


class CheckedFiles:
    """Files that passed a check, stored as JSON lines: path, version (three numbers), name of the check, kind.

    Files that failed are not stored: the next check reads them again. A context manager; several processes may write
    the same file.

    Args:
        sidecar: path of the JSON lines file; need not exist.
    """

    def __init__(self, sidecar: Path) -> None:
        self.sidecar = sidecar
        self._writer: RecordWriter | None = None
        self._kinds: dict[Key, str] = {}
        self._looked_up: dict[tuple[str, str], Key] = {}
        for value in read_values(sidecar, skip_broken=True):
            if isinstance(value, list) and len(value) == 6:  # lines of earlier versions have 5 values
                path, size, modified, changed, checked, kind = value
                if all(isinstance(text, str) for text in (path, checked, kind)):
                    with suppress(TypeError):  # a number that is a list
                        self._kinds[path, size, modified, changed, checked] = kind

    def kind(self, path: str, checked: str) -> str | None:
        """Returns the kind of a file that passed a check and has not changed since then; None: it must be checked.

        Args:
            checked: name of the check.
        """
        key = _key(path, checked)
        if key is None:
            return None
        self._looked_up[path, checked] = key
        return self._kinds.get(key)

    def add(self, path: str, checked: str, kind: str) -> None:
        """Record that a file passed a check, as it was when :meth:`kind` was asked: it may have changed since."""
        key = self._looked_up.get((path, checked)) or _key(path, checked)
        if key is None or key in self._kinds:
            return
        self._kinds[key] = kind
        if self._writer is None:
            self._writer = RecordWriter(self.sidecar, shared=True)
        self._writer.append([*key, kind])

    def close(self) -> None:
        """Release the file. Closing twice is allowed."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> "CheckedFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _key(path: str, checked: str) -> Key | None:
    try:
        return path, *file_version(path), checked
    except OSError:
        return None
