"""Number of cores that a process may use, and how they are shared between computing and reading media."""

import os

MAX_MEDIA_WORKERS = 8


def available_cores() -> int:
    """Return the number of cores that this process may run on; all cores if the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    return max(1, available_cores() // local_ranks - workers)


def media_workers(asked: int | None, local_ranks: int = 1) -> int:
    """Return the number of media workers of one training process.

    Args:
        asked: number from the user; None: the process's share of the cores minus one, at least 1 and at most 8 (more
            rarely helps).
        local_ranks: number of training processes on this machine.
    """
    if asked is not None:
        return asked
    return min(MAX_MEDIA_WORKERS, max(1, available_cores() // local_ranks - 1))
