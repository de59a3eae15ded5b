"""Control groups of Linux (container, Slurm job, systemd unit): the limits that hold for this process."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def group_folders(controller: str, root: Path = ROOT) -> Iterator[tuple[int, Path]]:
    """Yield version (1 or 2) and folder of every control group that limits this process: its own and those above.

    In a container the own group may be mounted at the top, where the path that the kernel tells does not exist. So some
    of the folders may not exist.

    Args:
        controller: such as ``memory``.
        root: folder of ``proc`` and ``sys``.
    """
    mounts = root / "sys/fs/cgroup"
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:  # version 2: alone, or beside version 1
            version, tops = 2, (mounts, mounts / "unified")
        elif controller in controllers.split(","):
            version, tops = 1, (mounts / controller, mounts / controllers)
        else:
            continue
        for top in dict.fromkeys(tops):
            folder = top / group.strip("/")
            yield from ((version, place) for place in (folder, *folder.parents) if place.is_relative_to(top))


def read_text(file: Path) -> str | None:
    """Return the text of a file without white space around it; None if there is no such file."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None


def read_number(file: Path) -> int | None:
    """Return the positive number in a file; None if there is no such file, or no limit in it."""
    text = read_text(file)
    return int(text) if text and text.isdigit() and int(text) else None
