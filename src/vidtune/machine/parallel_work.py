"""Work that is cut into numbered pieces and runs in worker processes. Each piece leaves its result on disk."""

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait

from vidtune.errors import UserError
from vidtune.machine.workers import Worker

HELD = 2
"""Number of pieces that a worker holds: the one it works on, and the next, so that it never waits for its parent."""


def work_in_processes(work: Callable[[int], None], pieces: Sequence[int], workers: int) -> Iterator[int]:
    """Run ``work(piece)`` for all pieces in ``workers`` processes. Yields each piece when it is done, in any order.

    The workers end with the caller, however it ends. The main module is not imported again. A worker that dies may have
    been ended by the machine: its pieces are done again by a fresh one.

    Args:
        work: picklable; may run twice for a piece.

    Raises:
        UserError: two workers died of one piece. UserError, OSError: ``work`` raised it. RuntimeError: ``work`` raised
            something else; holds the traceback of the worker.
    """
    left = list(reversed(pieces))
    crew = [_PieceWorker(work) for _ in range(min(workers, len(pieces)))]
    died: set[int] = set()
    try:
        for worker in crew:
            worker.fill(left)
        while busy := {worker.connection: worker for worker in crew if worker.held}:
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                piece = worker.finished()
                if piece is None:
                    _replace(worker, crew, left, died)
                    continue
                worker.fill(left)
                yield piece
    finally:
        for worker in crew:
            worker.end()


def _replace(worker: "_PieceWorker", crew: list["_PieceWorker"], left: list[int], died: set[int]) -> None:
    """Let a fresh worker take the pieces of one that has died.

    Args:
        died: pieces that a worker died of before.

    Raises:
        UserError: another worker died of the same piece.
    """
    if worker.held[0] in died:
        raise UserError(
            "a worker process died, perhaps because memory was full; run the same command again: finished work is kept"
        )
    died.add(worker.held[0])
    left += reversed(worker.held)
    worker.end()
    crew[crew.index(worker)] = fresh = _PieceWorker(worker.work)
    fresh.fill(left)


class _PieceWorker:
    """The parent's end of a worker process. ``held``: the pieces that it has, the one that it works on first."""

    def __init__(self, work: Callable[[int], None]) -> None:
        self.work = work
        self._process = Worker(_serve, work, modules=[_module_of(work)])
        self.connection = self._process.connection
        self.held: list[int] = []

    def fill(self, left: list[int]) -> None:
        """Hand out pieces, up to `HELD` of them."""
        while left and len(self.held) < HELD:
            piece = left.pop()
            with suppress(OSError):  # a process that has died is noticed where its answer is missing
                self.connection.send(piece)
            self.held.append(piece)

    def finished(self) -> int | None:
        """Return the piece that the worker has done; None: it has died.

        Raises:
            UserError, OSError: ``work`` raised it: a mistake of the user, a disk that is full.
            RuntimeError: ``work`` raised something else.
        """
        try:
            piece, crash = self.connection.recv()
        except (EOFError, OSError):
            return None
        if isinstance(crash, Exception):
            raise crash
        if crash is not None:
            raise RuntimeError(f"a worker process failed:\n{crash}")
        self.held.remove(piece)
        return int(piece)

    def end(self) -> None:
        self._process.end()


def _module_of(work: Callable[[int], None]) -> str:
    """Return the module of a function, also of one with bound arguments."""
    while isinstance(work, partial):
        work = work.func
    return getattr(work, "__module__", None) or __name__


def _serve(connection: Connection, work: Callable[[int], None]) -> None:
    # The processes are the parallelism: threads of the tokenizers library would only fight over the same cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        while True:
            piece = connection.recv()
            try:
                work(piece)
            except Exception as error:
                connection.send((piece, error if isinstance(error, UserError | OSError) else traceback.format_exc()))
                continue
            connection.send((piece, None))
    except (EOFError, OSError):
        return
