"""Several training processes on this machine from one command, without ``torchrun``.

They get the variables that ``torchrun`` sets. What ends one of them ends all: a signal to the launcher is handed on to
every process, which save and leave; when one dies, the others are killed within seconds.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from vidtune.errors import UserError
from vidtune.training.signals import TrainingInterrupted

LAUNCHER_PIPE = "VIDTUNE_LAUNCHER_PIPE"
POLL_SECONDS = 0.05
# How long the others may take to follow one that has left in agreement with them (a mistake, an interruption).
FOLLOW_SECONDS = 20.0
# Exit codes with which all ranks leave together, having said why.
INTERRUPTED = TrainingInterrupted.exit_code
TOGETHER = (UserError.exit_code, INTERRUPTED)


def launch(command: Sequence[str], processes: int) -> int:
    """Run a command in several processes that train together, and wait for them.

    Args:
        command: program and arguments.
        processes: how many.

    Returns: the exit code of the first process that did not end well, 128 + the signal that killed it; 0 when all did.
    Raises:
        UserError: this is one of several processes already.
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
    """In a process that :func:`launch` has started: ask it to stop, as SIGTERM does, when the launcher is gone."""
    descriptor = os.environ.pop(LAUNCHER_PIPE, None)
    if descriptor is None:
        return

    def wait() -> None:
        os.read(int(descriptor), 1)  # nobody writes: it returns when the other end is closed
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="launcher-watch", daemon=True).start()


class _Crew:
    """The processes; as a context, signals are handed on to them as SIGTERM, and none of them outlives it."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._stopping = False

    def __enter__(self) -> "_Crew":
        self._previous = {number: signal.signal(number, self._hand_on) for number in self.SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for rank in self._ranks:
            _kill(rank)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def start(self, command: Sequence[str], environment: dict[str, str], pipe: int) -> None:
        # A session of its own: what Ctrl-C means is for the launcher to hand on, once.
        rank = subprocess.Popen(command, env=environment, pass_fds=[pipe], start_new_session=True)
        self._ranks.append(rank)
        if self._stopping:
            rank.terminate()

    def wait(self) -> int:
        """Wait for all; the exit code of the launcher."""
        first: tuple[int, int] | None = None
        while any([rank.poll() is None for rank in self._ranks]):  # asks every one
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
        if self._stopping and code == -signal.SIGTERM:
            print("interrupted before the first step; the same command starts again", file=sys.stderr)
            return INTERRUPTED
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
        print(
            f"error: rank {number} {how} and the others were ended; the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        return 128 - code if code < 0 else code

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        for rank in self._ranks:
            rank.terminate()


def _kill(rank: "subprocess.Popen[bytes]") -> None:
    """End a process and the media workers it has started."""
    if rank.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(rank.pid, signal.SIGKILL)
        rank.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
