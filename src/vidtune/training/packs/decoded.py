"""Decoded media on their way from the worker pool to the packs, with a bounded memory of recent ones.

Annotation files ask several questions about one video, and small data sets come round every few seconds: what was
decoded lately is not decoded again.

What media take in a training process, about: the pool's ``max_waiting`` (at most half a GiB) in results that wait in
it, as much again remembered here, and as much again in packs that are ready ahead of the step. The worker processes
have a bound of their own; see :mod:`vidtune.media.pool`.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

import numpy as np

from vidtune.errors import MediaError
from vidtune.media.pool import LoadJob, LoadResult, MediaPool


class Decoded:
    """One decoded file, or the promise of one. All but ``job`` and ``identity`` hold once ``done``; ``seconds`` were
    spent on it. ``identity`` names the content that the file had before; None where nobody asks.
    """

    __slots__ = ("array", "done", "error", "identity", "job", "second", "seconds")

    def __init__(self, job: LoadJob, identity: str | None = None) -> None:
        self.job, self.identity = job, identity
        self.done = False
        self.array: np.ndarray | None = None
        self.second: np.ndarray | None = None
        self.error: MediaError | None = None
        self.seconds = 0.0

    @property
    def nbytes(self) -> int:
        """Memory it takes; 0 for a promise or a failure."""
        return sum(array.nbytes for array in (self.array, self.second) if array is not None)

    def fill(self, result: LoadResult) -> None:
        self.array, self.second = result.array, result.second
        self.error, self.seconds, self.done = result.error, result.seconds, True


class DecodedMedia:
    """Asks the pool for files, each once while it is in flight or remembered.

    The pool draws its jobs from this object and may look ahead; when nothing is waiting it calls ``plan_more``.

    Args:
        pool: ordered results.
        plan_more: asks for further media by ``request``; returns False when there is nothing more to plan for now.
        remembered_bytes: how much is kept for samples to come; None: as much as may wait in the pool.
    """

    def __init__(self, pool: MediaPool, plan_more: Callable[[], bool], remembered_bytes: int | None = None) -> None:
        self._pool, self._plan_more = pool, plan_more
        self._limit = pool.max_waiting if remembered_bytes is None else remembered_bytes
        self._waiting: deque[Decoded] = deque()
        self._in_flight: deque[Decoded] = deque()
        self._known: OrderedDict[LoadJob, Decoded] = OrderedDict()
        self._bytes = 0
        self._results: Iterator[LoadResult] = iter(())

    def request(self, job: LoadJob, identity: str | None = None) -> Decoded:
        """The file, now or later; one that is remembered keeps the identity that it was first asked for with."""
        decoded = self._known.get(job)
        if decoded is None:
            decoded = self._known[job] = Decoded(job, identity)
            self._waiting.append(decoded)
        else:
            self._known.move_to_end(job)
        return decoded

    def wait_for(self, decoded: Decoded) -> None:
        """Return when the file is decoded or has failed."""
        while not decoded.done:
            result = next(self._results, None)
            if result is None:
                self._results = iter(self._pool.load(self._jobs()))
                continue
            arrived = self._in_flight.popleft()
            arrived.fill(result)
            self._remember(arrived)

    def _jobs(self) -> Iterator[LoadJob]:
        while self._waiting or self._plan_more():
            if self._waiting:
                self._in_flight.append(self._waiting.popleft())
                yield self._in_flight[-1].job

    def _remember(self, arrived: Decoded) -> None:
        self._bytes += arrived.nbytes
        while self._bytes > self._limit:
            oldest = next(decoded for decoded in self._known.values() if decoded.nbytes)
            self._bytes -= oldest.nbytes
            del self._known[oldest.job]
