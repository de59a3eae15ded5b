"""Whether a path stays inside a folder: as it is written, and where symbolic links lead."""

import os
from pathlib import Path

LONGEST_NAME, LONGEST_PATH = 255, 3000
"""Bytes of the name of a file, and of a path below a folder."""


def stays_below(name: str) -> bool:
    """Whether a path, as it is written, stays below the folder that it starts from.

    It is relative, names something, contains no "..", and can be the path of a file.
    """
    try:
        sizes = [len(os.fsencode(part)) for part in Path(name).parts]
    except UnicodeEncodeError:
        return False
    if not sizes or max(sizes) > LONGEST_NAME or sum(sizes) > LONGEST_PATH:
        return False
    return not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name


def is_inside(path: str | Path, *roots: str | Path) -> bool:
    """Whether a path lies in one of these folders once symbolic links are followed; it need not exist."""
    try:
        place = Path(os.path.realpath(path))
        return any(place.is_relative_to(os.path.realpath(root)) for root in roots)
    except (OSError, ValueError):  # no name of a file
        return False
