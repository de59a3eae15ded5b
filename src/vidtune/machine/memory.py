"""Memory of the machine or container, memory that this process holds, and limits for decoded media."""

import gc
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vidtune.machine.cgroups import ROOT, group_folders, read_number

GIB = 2**30
_WORKERS_SHARE = 2  # all media workers together: half of the memory
_WAITING_SHARE = 16  # decoded media that wait in the parents: a sixteenth of the memory


@contextmanager
def uncollected() -> Iterator[None]:
    """Context manager for the loading of modules and models, which stay: Python does not search them for cycles.

    While a model is loaded, hundreds of thousands of objects come and few go; searching all of them again and again
    would take a fifth of the time. What was made inside counts as old afterwards: it is searched last.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.freeze()
            gc.unfreeze()  # all of them are in the oldest generation now
            gc.enable()


def memory_limit(root: Path = ROOT) -> int:
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


def _group_limits(root: Path) -> Iterator[int]:
    """Yield the limits of the control groups of this process."""
    names = {1: ("memory.limit_in_bytes",), 2: ("memory.max", "memory.high")}  # above "high" a process hardly gets on
    for version, folder in group_folders("memory", root):
        limits = (read_number(folder / name) for name in names[version])
        yield from (limit for limit in limits if limit is not None)
