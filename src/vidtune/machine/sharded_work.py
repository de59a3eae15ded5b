"""Numbered pieces of work in worker processes; every piece leaves its own result on disk."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from vidtune.errors import UserError
from vidtune.machine.worker_start import start_worker

HELD = 2
"""Pieces that a worker holds: the one it works on, and the next."""


def work_in_processes(work: Callable[[int], None], pieces: Sequence[int], workers: int) -> Iterator[int]:
    """Run ``work(piece)`` for all pieces in ``workers`` processes; yields the piece that has been done, in any order.

    Workers end with the caller, however it ends. The main module is not imported again.

    Args:
        work: picklable; a second run of the same piece must do no harm.

    Raises:
        UserError: a worker died. RuntimeError: ``work`` raised; holds the worker's traceback.
    """
    left = list(reversed(pieces))
    crew = [_Worker(work) for _ in range(min(workers, len(pieces)))]
    try:
        for worker in crew:
            worker.fill(left)
        while busy := {worker.connection: worker for worker in crew if worker.held}:
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                piece = worker.finished()
                worker.fill(left)
                yield piece
    finally:
        for worker in crew:
            worker.end()


class _Worker:
    def __init__(self, work: Callable[[int], None]) -> None:
        self.process, self.connection = start_worker(_serve, work)
        self.held = 0

    def fill(self, left: list[int]) -> None:
        """Hand out pieces, so many that the process never waits for its parent."""
        while left and self.held < HELD:
            piece = left.pop()
            with suppress(OSError):  # a process that has died is noticed where its answer is missing
                self.connection.send(piece)
            self.held += 1

    def finished(self) -> int:
        try:
            piece, crash = self.connection.recv()
        except (EOFError, OSError):
            raise UserError(
                "a worker process died, perhaps for want of memory; run the same command again: what is done is kept"
            ) from None
        if crash is not None:
            raise RuntimeError(f"a worker process failed:\n{crash}")
        self.held -= 1
        return int(piece)

    def end(self) -> None:
        self.process.kill()
        self.process.join(1.0)
        self.connection.close()


def _serve(connection: Connection, work: Callable[[int], None]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The processes are the parallelism: threads of the tokenizers library would only fight over the same cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        while True:
            piece = connection.recv()
            try:
                work(piece)
            except Exception:
                connection.send((piece, traceback.format_exc()))
                continue
            connection.send((piece, None))
    except (EOFError, OSError):
        return
