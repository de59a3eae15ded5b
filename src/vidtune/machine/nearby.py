"""Looks below a folder for what a user may have meant, when the folder itself does not hold it."""

from collections.abc import Callable
from pathlib import Path

DEPTH = 3
MOST_ENTRIES = 5000
"""A folder of data may hold millions of files; the search ends there."""
NAMED = 4


def below(folder: Path, is_wanted: Callable[[Path], bool]) -> list[Path]:
    """Return the folders at most three levels below a folder that hold what is wanted, the newest first.

    Nothing is looked for inside a folder that holds it, nor in hidden folders.
    """
    found: list[Path] = []
    level, entries = [folder], 0
    for _ in range(DEPTH):
        inner: list[Path] = []
        for parent in level:
            try:
                folders = [path for path in parent.iterdir() if not path.name.startswith(".")]
            except OSError:
                continue
            entries += len(folders)
            inner += [path for path in folders if path.is_dir()] if entries <= MOST_ENTRIES else []
        matching = [path for path in inner if is_wanted(path)]
        found += matching
        level = [path for path in inner if path not in matching]
    return sorted(found, key=lambda path: (-path.stat().st_mtime, str(path)))


def listed(places: list[Path]) -> str:
    """Return paths in words; of many, the first four."""
    more = len(places) - NAMED
    return ", ".join(map(str, places[:NAMED])) + (f" and {more} more" if more > 0 else "")
