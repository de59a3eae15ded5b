"""How many cores this process may use."""

import os


def available_cores() -> int:
    """Cores that the process is allowed to run on, where the system tells; else all of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
