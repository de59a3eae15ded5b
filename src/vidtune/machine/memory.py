"""Memory of the machine or container, memory that this process holds, and limits for decoded media."""

import os
import resource
import sys
from pathlib import Path

GIB = 2**30
_WORKERS_SHARE = 2  # all media workers together: half of the memory
_WAITING_SHARE = 16  # decoded media that wait in the parents: a sixteenth of the memory


def memory_limit(root: Path = Path("/")) -> int:
    """Return the bytes that all processes here may use together: the memory of the machine, or the limit of a control
    group (container, Slurm job) if that is lower.

    Args:
        root: folder of ``proc`` and ``sys``.
    """
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *_group_limits(root)])


def resident_bytes() -> int:
    """Return the bytes of memory that this process holds now; its maximum so far if the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def worker_memory(workers: int) -> int:
    """Return the bytes of memory above which a media worker is replaced, so that all of them stay within half of the
    memory: from half a GiB (a new worker holds about half of that) to 4 GiB.

    Args:
        workers: number of media workers of all processes on this machine.
    """
    return min(4 * GIB, max(GIB // 2, memory_limit() // _WORKERS_SHARE // max(workers, 1)))


def waiting_memory(processes: int = 1) -> int:
    """Return the bytes of decoded media that may wait in each training process, at most half a GiB.

    Args:
        processes: number of training processes on this machine.
    """
    return min(GIB // 2, memory_limit() // _WAITING_SHARE // processes)


def _group_limits(root: Path) -> list[int]:
    """Return the limits of the control groups (versions 1 and 2) of this process, its own and those above."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        folder = top / group.strip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(top):
                limits += _number(place / name)
    return limits


def _number(file: Path) -> list[int]:
    """Return the number in a file; nothing if the file does not exist or sets no limit."""
    try:
        return [int(file.read_text())]
    except (OSError, ValueError):
        return []
