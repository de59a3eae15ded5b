"""Number of cores that a process may use, and how they are shared between computing and reading media."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from vidtune.machine.cgroups import ROOT, group_folders, read_number, read_text

MAX_MEDIA_WORKERS = 8


def available_cores(root: Path = ROOT) -> int:
    """Return the number of cores that this process may use: those that it may run on, or the share of processor time
    that a control group (container, Slurm job) grants, rounded up, if that is lower.

    Args:
        root: folder of ``proc`` and ``sys``.
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([here, *map(math.ceil, _granted(root))]))


def _granted(root: Path) -> Iterator[float]:
    """Yield the cores that each control group grants: processor time in a period, and the period, in microseconds."""
    for version, folder in group_folders("cpu", root):
        if version == 2:
            quota, _, period = (read_text(folder / "cpu.max") or "").partition(" ")
            numbers = [int(text) for text in (quota, period) if text.isdigit()]
        else:
            found = (read_number(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            numbers = [number for number in found if number is not None]
        if len(numbers) == 2 and all(numbers):
            yield numbers[0] / numbers[1]


def queued_seconds() -> float | None:
    """Return the seconds in which this thread could compute but had to wait for a core; None if the system does not
    tell."""
    text = read_text(Path("/proc/thread-self/schedstat")) or ""
    fields = text.split()
    return int(fields[1]) / 1e9 if len(fields) == 3 else None


def thread_budget(local_ranks: int = 1, workers: int = 0) -> int:
    """Return the number of compute threads of one training process, at least 1.

    If ``OMP_NUM_THREADS`` is set (``torchrun`` sets it), that number is used. Otherwise it is the process's share of
    the cores, so that the ranks of a machine do not compete for them, minus one core for each media worker.

    Args:
        local_ranks: number of training processes on this machine.
        workers: number of media workers. Give it only if another device does the arithmetic: float results on CPU
            depend on the number of threads, which must not depend on the number of workers.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return max(1, _share(local_ranks) - workers)


def media_workers(asked: int | None, local_ranks: int = 1) -> int:
    """Return the number of media workers of one training process.

    Args:
        asked: number from the user; None: the process's share of the cores minus one, at least 1 and at most 8 (more
            rarely helps).
        local_ranks: number of training processes on this machine.
    """
    if asked is not None:
        return asked
    return min(MAX_MEDIA_WORKERS, max(1, _share(local_ranks) - 1))


def _share(local_ranks: int) -> int:
    """Return the number of cores of one of the training processes on this machine."""
    cores = available_cores()
    of_job = os.environ.get("SLURM_CPUS_ON_NODE", "")
    # srun binds each task that it starts to cores of its own; torchrun sets LOCAL_RANK and binds nothing.
    is_task = "SLURM_PROCID" in os.environ and "LOCAL_RANK" not in os.environ
    if is_task and of_job.isdigit() and cores < int(of_job):
        return cores
    return cores // local_ranks
