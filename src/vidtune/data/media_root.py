"""Paths in annotations are relative to a media root and must stay below it, wherever symbolic links lead."""

import os
from pathlib import Path

from vidtune.data.problems import SampleProblem


def resolve(root: Path | None, relative: str) -> str:
    """Absolute path of a file that an annotation names; the file need not exist.

    Args:
        root: media root; None if the data source has none.
    Raises:
        SampleProblem: the path is absolute, climbs with "..", or leaves the root through a symbolic link.
    """
    if root is None:
        raise SampleProblem("no media folder", f"{relative!r} is named but the data source has no media folder")
    parts = Path(relative).parts
    if not parts or Path(relative).is_absolute() or ".." in parts or "\0" in relative:
        raise SampleProblem("unsafe path", f"{relative!r} is not a path below the media folder {root}")
    base = os.path.realpath(root)
    target = os.path.realpath(os.path.join(base, relative))  # noqa: PTH118
    if os.path.commonpath([base, target]) != base:
        raise SampleProblem("unsafe path", f"{relative!r} leads out of the media folder {root} through a symbolic link")
    return target
