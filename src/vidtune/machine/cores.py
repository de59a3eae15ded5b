"""How many cores this process may use, and how they are shared between computing and reading media."""

import os

MAX_MEDIA_WORKERS = 8


def available_cores() -> int:
    """Cores that the process is allowed to run on, where the system tells; else all of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_budget(local_ranks: int = 1, workers: int = 0) -> int:
    """Compute threads of one training process.

    ``OMP_NUM_THREADS`` wins where it is set (``torchrun`` sets it). Else the process's share of the cores, so that the
    ranks of a machine do not fight for them, minus the cores its media workers keep busy.

    Args:
        local_ranks: training processes on this machine.
        workers: media workers to leave a core to; give them where another device does the arithmetic. On CPU leave
            them out: float results depend on the number of threads, which must not follow a setting like that.

    Returns: at least 1.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return max(1, available_cores() // local_ranks - workers)


def media_workers(asked: int | None, local_ranks: int = 1) -> int:
    """Media workers of one training process: as many as asked for, or (None) what its share of the cores can feed.

    The training process keeps one core of its share; more than 8 workers rarely pay.
    """
    if asked is not None:
        return asked
    return min(MAX_MEDIA_WORKERS, max(1, available_cores() // local_ranks - 1))
