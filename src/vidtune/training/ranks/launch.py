"""Starts several training processes on this machine with one command, without ``torchrun``.

They get the environment variables that ``torchrun`` sets. A signal to the launcher is passed on to every process; they
save and leave. If one process dies, the others are killed within seconds.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from vidtune.errors import UserError
from vidtune.recipe.types import RECIPE_FILE, Recipe, dump_recipe
from vidtune.training.signals import LaunchFailed, TrainingInterrupted

LAUNCHER_PIPE = "VIDTUNE_LAUNCHER_PIPE"
POLL_SECONDS = 0.05
# Seconds that the others may take to end after one ended in agreement with them (a mistake, an interruption).
FOLLOW_SECONDS = 20.0
# Exit codes with which all ranks end together, after a message that says why.
INTERRUPTED = TrainingInterrupted.exit_code
TOGETHER = (UserError.exit_code, INTERRUPTED)


def launch_training(
    recipe: Recipe, out: Path, processes: int, device: str | None = None, progress: bool = True
) -> None:
    """Train a recipe in several processes of this machine, and wait for them.

    Args:
        out: folder of the run.
        processes: number of processes.
        device: device of torch; None takes the GPUs if there are any.
        progress: whether rank 0 shows progress on standard error.

    Raises:
        UserError: this process was started by a launcher itself.
        LaunchFailed: a process failed or was stopped.
    """
    with tempfile.TemporaryDirectory(prefix="vidtune-") as folder:
        path = Path(folder) / RECIPE_FILE
        path.write_text(dump_recipe(recipe), encoding="utf-8")
        command = [sys.executable, "-m", "vidtune", "train", str(path), "--out", str(out)]
        command += ["--device", device] if device else []
        command += [] if progress else ["--quiet"]
        if code := launch(command, processes):
            raise LaunchFailed(code)


def launch(command: Sequence[str], processes: int) -> int:
    """Run a command in several processes that train together, and wait for them.

    Args:
        command: program and arguments.
        processes: number of processes.

    Returns: 0 if all processes succeeded; else the exit code of the first one that failed, or 128 + the number of the
        signal that killed it.
    Raises:
        UserError: this process was started by a launcher itself.
    """
    if "RANK" in os.environ or "WORLD_SIZE" in os.environ:
        raise UserError("--processes: a launcher has started several processes already (RANK is set); leave it out")
    reader, writer = os.pipe()
    shared = {
        **os.environ,
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        LAUNCHER_PIPE: str(reader),
    }
    with _Crew() as crew:
        for rank in range(processes):
            environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            crew.start(command, environment, reader)
        code = crew.wait()
    os.close(reader)
    os.close(writer)
    return code


def follow_launcher() -> None:
    """Send SIGTERM to this process when the launcher that started it has died. Does nothing without a launcher."""
    descriptor = os.environ.pop(LAUNCHER_PIPE, None)
    if descriptor is None:
        return

    def wait() -> None:
        os.read(int(descriptor), 1)  # nothing is ever written: it returns when the other end is closed
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="launcher-watch", daemon=True).start()


class _Crew:
    """The started processes. As a context manager it passes signals on as SIGTERM, and ends all processes on exit."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._stopping = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "_Crew":
        if threading.current_thread() is threading.main_thread():  # Python allows signal handlers there alone
            self._previous = {number: signal.signal(number, self._pass_on) for number in self.SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for rank in self._ranks:
            _kill(rank)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def start(self, command: Sequence[str], environment: dict[str, str], pipe: int) -> None:
        # A session of its own: the launcher alone gets Ctrl-C, and passes it on once.
        rank = subprocess.Popen(command, env=environment, pass_fds=[pipe], start_new_session=True)
        self._ranks.append(rank)
        if self._stopping:
            rank.terminate()

    def wait(self) -> int:
        """Wait for all processes. Returns the exit code of the launcher."""
        first: tuple[int, int] | None = None
        while any([rank.poll() is None for rank in self._ranks]):  # a list, so that every process is asked
            if first is None and (first := self._first_to_fail()) is not None:
                deadline = time.monotonic() + (FOLLOW_SECONDS if first[1] in TOGETHER else 0.0)
            if first is not None and time.monotonic() >= deadline:
                for rank in self._ranks:
                    _kill(rank)
            time.sleep(POLL_SECONDS)
        first = first or self._first_to_fail()
        return 0 if first is None else self._explain(*first)

    def _first_to_fail(self) -> tuple[int, int] | None:
        return next(((number, rank.returncode) for number, rank in enumerate(self._ranks) if rank.returncode), None)

    def _explain(self, number: int, code: int) -> int:
        if code in TOGETHER:
            return code
        if self._stopping and code in (-signal.SIGTERM, 128 + signal.SIGTERM):  # the latter: after it had cleaned up
            print("interrupted before the first step; the same command starts again", file=sys.stderr)
            return INTERRUPTED
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
        print(
            f"error: rank {number} {how} and the others were ended; the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        return 128 - code if code < 0 else code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        for rank in self._ranks:
            rank.terminate()


def _kill(rank: "subprocess.Popen[bytes]") -> None:
    """Kill a process and the media workers that it has started."""
    if rank.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(rank.pid, signal.SIGKILL)
        rank.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
