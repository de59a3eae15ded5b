"""Starts several processes on this machine with one command, without ``torchrun``.

They get the environment variables that ``torchrun`` sets. A signal to the launcher is passed on to every process; they
save and leave. `LaunchPolicy` says what becomes of the others when one process dies.
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
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any

from vidtune.errors import UserError

LAUNCHER_PIPE = "VIDTUNE_LAUNCHER_PIPE"
POLL_SECONDS = 0.05
# Seconds that the others may take to end after one ended in agreement with them (a mistake, an interruption).
FOLLOW_SECONDS = 20.0
# Exit codes with which all ranks end together, after a message that says why.
INTERRUPTED = 130
TOGETHER = (UserError.exit_code, INTERRUPTED)


class LaunchFailed(Exception):
    """Processes that were started to work together failed or were stopped. They said why on standard error.

    Args:
        exit_code: 2 for a mistake of the user, 130 if the run was stopped and has saved itself, else as `launch`.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the processes ended with exit code {exit_code}; the reason is on standard error")
        self.exit_code = exit_code


@dataclass(frozen=True)
class LaunchPolicy:
    """What becomes of the other processes when one fails, and what is printed when they end before their time.

    Args:
        independent: the others go on, and do the part of one that fails. Only the standard error of the first process
            is shown; that of another one is printed if it fails in its own way.
        interrupted: said when a signal ended them before they could answer it.
        lost: said of a process whose failure ended all, after what became of it.
        taken_over: said of a process that failed while others went on.
    """

    independent: bool = False
    interrupted: str = "interrupted before the first step; the same command starts again"
    lost: str = "and the others were ended; the same command goes on from the last checkpoint"
    taken_over: str = "and the others did its part"


FAIL_TOGETHER = LaunchPolicy()


@dataclass(frozen=True)
class Launched:
    """How the processes of a launch ended.

    Args:
        code: 0 if all succeeded, or one did of those that work apart; else the exit code of the first one that failed,
            or 128 + the number of the signal that killed it.
        lost: numbers of the processes that failed.
    """

    code: int
    lost: tuple[int, ...] = ()


def launch(command: Sequence[str], processes: int, policy: LaunchPolicy = FAIL_TOGETHER) -> Launched:
    """Run a command in several processes, and wait for them.

    Args:
        command: program and arguments.
        processes: number of processes.

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
    try:
        with _Processes(policy) as started:
            for rank in range(processes):
                environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                started.start(command, environment, reader)
            return started.wait()
    finally:
        os.close(reader)
        os.close(writer)


def follow_launcher() -> bool:
    """Send SIGTERM to this process when the launcher that started it has died. Returns whether there is a launcher."""
    descriptor = os.environ.pop(LAUNCHER_PIPE, None)
    if descriptor is None:
        return False

    def wait() -> None:
        os.read(int(descriptor), 1)  # nothing is ever written: it returns when the other end is closed
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="launcher-watch", daemon=True).start()
    return True


class _Processes:
    """The started processes. As a context manager it passes signals on as SIGTERM, and ends all processes on exit."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, policy: LaunchPolicy) -> None:
        self._policy = policy
        self._stderr: list[IO[bytes] | None] = []
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._stopping = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "_Processes":
        if threading.current_thread() is threading.main_thread():  # Python allows signal handlers there alone
            self._previous = {number: signal.signal(number, self._pass_on) for number in self.SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for rank in self._ranks:
            _kill(rank)
        for said in self._stderr:
            if said is not None:
                said.close()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def start(self, command: Sequence[str], environment: dict[str, str], pipe: int) -> None:
        # A session of its own: the launcher alone gets Ctrl-C, and passes it on once.
        said = tempfile.TemporaryFile() if self._policy.independent and self._ranks else None  # noqa: SIM115 - closed at exit
        rank = subprocess.Popen(command, env=environment, pass_fds=[pipe], start_new_session=True, stderr=said)
        self._ranks.append(rank)
        self._stderr.append(said)
        if self._stopping:
            rank.terminate()

    def wait(self) -> Launched:
        """Wait for all processes."""
        first: tuple[int, int] | None = None
        while any([rank.poll() is None for rank in self._ranks]):  # a list, so that every process is asked
            if first is None and (first := self._first_to_end_all()) is not None:
                deadline = time.monotonic() + (FOLLOW_SECONDS if first[1] in TOGETHER else 0.0)
            if first is not None and time.monotonic() >= deadline:
                for rank in self._ranks:
                    _kill(rank)
            time.sleep(POLL_SECONDS)
        failed = {number: rank.returncode for number, rank in enumerate(self._ranks) if rank.returncode}
        if self._policy.independent and len(failed) < len(self._ranks) and not set(failed.values()) & set(TOGETHER):
            for number, code in failed.items():
                self._print_stderr(number)
                print(f"warning: rank {number} {_how(code)} {self._policy.taken_over}", file=sys.stderr)
            return Launched(0, tuple(failed))
        if not failed:
            return Launched(0)
        number, code = first or next(iter(failed.items()))
        if failed.get(0) != code:
            self._print_stderr(number)
        return Launched(self._explain(number, code), tuple(failed))

    def _first_to_end_all(self) -> tuple[int, int] | None:
        """The first process that failed so that the others have to end: number and exit code."""
        alone = () if not self._policy.independent else TOGETHER
        ended = ((number, rank.returncode) for number, rank in enumerate(self._ranks) if rank.returncode)
        return next((one for one in ended if not alone or one[1] in alone), None)

    def _print_stderr(self, number: int) -> None:
        """Print what a process has said that does not speak for all."""
        said = self._stderr[number]
        if said is not None:
            said.seek(0)
            sys.stderr.write(said.read().decode(errors="replace"))

    def _explain(self, number: int, code: int) -> int:
        if code in TOGETHER:
            return code
        if self._stopping and code in (-signal.SIGTERM, 128 + signal.SIGTERM):  # the latter: after it had cleaned up
            print(self._policy.interrupted, file=sys.stderr)
            return INTERRUPTED
        print(f"error: rank {number} {_how(code)} {self._policy.lost}", file=sys.stderr)
        return 128 - code if code < 0 else code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        for rank in self._ranks:
            rank.terminate()


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"


def _kill(rank: "subprocess.Popen[bytes]") -> None:
    """Kill a process and the media workers that it has started."""
    if rank.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(rank.pid, signal.SIGKILL)
        rank.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
