"""Memory: how much this machine or container has, how much this process holds, and how much of it media may take."""

import os
import resource
import sys
from pathlib import Path

GIB = 2**30
_WORKERS_SHARE = 2  # media workers together: half of the memory there is
_WAITING_SHARE = 16  # decoded media that wait in the parent


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that processes here may use together: the machine's memory, or less where a control group (container,
    Slurm job) allows less.

    Args:
        root: where ``proc`` and ``sys`` are found.
    """
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *_group_limits(root)])


def resident_bytes() -> int:
    """Memory this process holds now; its largest so far where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def worker_memory(workers: int) -> int:
    """Bytes at which one of so many media workers is replaced: together they stay within half of the memory.

    Args:
        workers: of all processes on this machine.

    Returns: half a GiB (a new worker holds about half of that) to 4 GiB.
    """
    return min(4 * GIB, max(GIB // 2, memory_limit() // _WORKERS_SHARE // max(workers, 1)))


def waiting_memory(processes: int = 1) -> int:
    """Bytes of decoded media that may wait in each of so many training processes; at most half a GiB."""
    return min(GIB // 2, memory_limit() // _WAITING_SHARE // processes)


def _group_limits(root: Path) -> list[int]:
    """Limits of the control groups this process is in, versions 1 and 2, its own and those above."""
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
    """What the file says, nothing where it does not exist or sets no limit."""
    try:
        return [int(file.read_text())]
    except (OSError, ValueError):
        return []
