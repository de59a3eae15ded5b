"""Whether a path stays inside a folder: as it is written, and where symbolic links lead."""

import os
from pathlib import Path


def stays_below(name: str) -> bool:
    """Whether a path, as it is written, stays below the folder that it starts from.

    It is relative, names something, contains no "..", and can be written as the name of a file.
    """
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    parts = Path(name).parts
    return bool(parts) and not Path(name).is_absolute() and ".." not in parts and "\0" not in name


def is_inside(path: str | Path, *roots: str | Path) -> bool:
    """Whether a path lies in one of these folders once symbolic links are followed; it need not exist."""
    try:
        place = Path(os.path.realpath(path))
        return any(place.is_relative_to(os.path.realpath(root)) for root in roots)
    except (OSError, ValueError):  # no name of a file
        return False
