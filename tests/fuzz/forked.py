"""Runs a command of vidtune in a forked child with limits of time and memory, and says how it ended."""

import importlib
import os
import pkgutil
import re
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

import vidtune
from vidtune.cli.main import run
from vidtune.cli.terminal.interrupts import INTERRUPTED
from vidtune.machine import workers
from vidtune.media.pool import LoadJob, MediaPool

COMPUTING, IDLE, ALL = 20.0, 40.0, 300.0
"""Seconds after which a command hangs: of computing, of only waiting, of any kind (the machine may be busy)."""
LEAVING = 100.0
"""Seconds of computing in which a training that still makes steps has to end after SIGINT: one step and its saving."""
LEFT = re.compile(r"^stopped by SIGINT after step [1-9]", re.MULTILINE)
"""What training says when it has finished a step after SIGINT."""
MEMORY = 3 * 2**30
"""Bytes that a child may take more than it was forked with."""
LARGE = 2**30
"""Bytes of memory that no small file is worth."""
LIBRARIES = (
    "rich.progress",
    "torch.distributed.checkpoint",
    "transformers.models.llama.modeling_llama",
    "transformers.models.clip.modeling_clip",
    "torch.utils.tensorboard",
)
OUTCOMES = ("ok", "named", "training", "unnamed", "traceback", "hang", "memory", "outside")
"""``training``: a legal, large recipe was still trained at the limit, and left after a step when it was asked to."""
GOOD = OUTCOMES[:3]
NOT_A_USERS, RAN = 99, "fuzz-was-here"


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
        outcome: one of OUTCOMES.
        printed: all that it printed.
        seconds: of a core that it took.
    """

    outcome: str
    printed: str
    seconds: float


def preload() -> None:
    """Import what commands import, so that children find it."""
    for found in pkgutil.walk_packages(vidtune.__path__, "vidtune."):
        if found.name.rpartition(".")[2] != "__main__":
            with suppress(ImportError):
                importlib.import_module(found.name)
    for name in LIBRARIES:
        importlib.import_module(name)


def share_workers() -> None:
    """Start the process that workers are forked from, once for all children."""
    if workers._server is not None:
        return
    with MediaPool(1, 60.0) as pool:
        list(pool.load([LoadJob("/nowhere.mp4", None)]))
    server = workers._server
    assert server is not None
    resource.prlimit(server._process.pid, resource.RLIMIT_DATA, (MEMORY, MEMORY))


def end_workers() -> None:
    if workers._server is not None:
        with suppress(AttributeError):  # a server that the launcher of the tests has forked cannot be waited for
            workers._server.close()
        workers._server.owner = 0  # what is closed at exit is closed once
        workers._server = None


def run_command(arguments: Sequence[str], folder: Path, name: str) -> Ended:
    """Run ``vidtune`` with these arguments in a folder.

    Args:
        name: that an error has to name.
    """
    return run_forked(lambda: run(arguments), folder, name)


def run_forked(work: Callable[[], int], folder: Path, name: str) -> Ended:
    """Run a function in a folder, in a child whose result is the exit code."""
    out = folder.parent / f"{folder.name}.printed"
    pid = os.fork()
    if not pid:
        _child(work, folder, out)
    in_time = _wait(pid, COMPUTING)
    if not in_time:
        os.kill(pid, signal.SIGINT)
        _wait(pid, LEAVING)
        os.killpg(pid, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)
    printed = out.read_bytes()[-200_000:].decode("utf-8", "replace")
    took, code = used.ru_utime + used.ru_stime, os.waitstatus_to_exitcode(status)
    if not in_time:
        end_workers()  # one of them may be stuck
        share_workers()
        return Ended("training" if code == INTERRUPTED and LEFT.search(printed) else "hang", printed, took)
    return Ended(outcome_of(code, printed, used.ru_maxrss * 1024 - _resident(), name, folder), printed, took)


def _wait(pid: int, computing: float) -> bool:
    """Wait for the end of a child. Returns whether it ended in time; how busy the machine is does not count.

    Args:
        computing: seconds of a core that it may take from now on.
    """
    watch, began, first, computed, idle = os.pidfd_open(pid), time.monotonic(), None, 0.0, 0.0
    try:
        while not select.select([watch], [], [], 1.0)[0]:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            now = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            idle = idle + 1.0 if fields[0] in "SD" and now == computed else 0.0
            computed = now
            first = now if first is None else first
            if computed - first > computing or idle > IDLE or time.monotonic() - began > ALL:
                return False
        return True
    finally:
        os.close(watch)


def outcome_of(code: int, printed: str, grown: int, name: str, folder: Path) -> str:
    if grown > LARGE or "out of memory" in printed or "more memory than the machine" in printed:
        return "memory"
    if code not in (0, 2) or "Traceback (most recent call last)" in printed or any(folder.rglob(RAN)):
        return "traceback"
    left_out = re.search(r"\b[1-9][0-9,]* (unusable|problems|failed|refused)", printed)
    if code == 0 and not left_out:
        return "ok"
    stem = re.escape(Path(name).stem)
    sample = re.search(rf"\b{stem}:\d|\({stem}\)", printed)  # a sample of an annotation, the video of a question
    return "named" if name in printed or sample else "unnamed"


def _child(work: Callable[[], int], folder: Path, out: Path) -> None:
    code = NOT_A_USERS
    try:
        os.setpgid(0, 0)
        nothing, printed = os.open(os.devnull, os.O_RDONLY), os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(nothing, 0)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        sys.stdout = os.fdopen(1, "w", errors="backslashreplace", closefd=False)
        sys.stderr = os.fdopen(2, "w", errors="backslashreplace", closefd=False)
        if workers._server is not None:
            workers._server.owner = os.getpid()  # the workers of the parent's server are ours
        signal.signal(signal.SIGINT, signal.default_int_handler)
        limit = _private() + MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**31, 2**31))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        torch.set_num_threads(1)
        os.chdir(folder)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _private() -> int:
    """Bytes of memory of its own that this process has."""
    found = re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
