"""Decoded media between the worker pool and the packs, with a bounded cache of recent ones.

Annotation files ask several questions about one video, and small data sets repeat every few seconds. Recently decoded
files are not decoded again.

Media take about this much memory in a training process: ``max_waiting`` of the pool (at most half a GiB) in results
that wait in the pool, the same amount in the cache here, and the same amount in packs that are ready ahead of the step.
The worker processes have a limit of their own; see :mod:`vidtune.media.pool`.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

import numpy as np

from vidtune.errors import MediaError, UnreadMediaError
from vidtune.media.file_version import GONE, FileVersion, version_of
from vidtune.media.pool import LoadJob, LoadResult, MediaPool


class Decoded:
    """One decoded file, or the promise of one.

    ``array``, ``second``, ``extras``, ``error`` and ``seconds`` (spent on decoding) are valid when ``done`` is true.
    ``epoch`` is that of the first request. ``identity`` names the content of the file before it was decoded; None if it
    is not needed. ``version`` is that of the file before it was decoded, too.
    """

    __slots__ = ("array", "done", "epoch", "error", "extras", "identity", "job", "second", "seconds", "version")

    def __init__(self, job: LoadJob, identity: str | None = None, epoch: int = 0) -> None:
        self.job, self.identity, self.epoch = job, identity, epoch
        self.done = False
        self.array: np.ndarray | None = None
        self.second: np.ndarray | None = None
        self.extras: dict[str, np.ndarray] | None = None
        self.error: MediaError | None = None
        self.seconds = 0.0
        self.version: FileVersion = GONE

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded arrays; 0 for a promise or a failure."""
        return sum(array.nbytes for array in (self.array, self.second) if array is not None)

    def fill(self, result: LoadResult) -> None:
        """Take over the result of decoding."""
        self.array, self.second, self.extras = result.array, result.second, result.extras
        self.error, self.seconds, self.done = result.error, result.seconds, True


class DecodedMedia:
    """Requests files from the pool. A file that is being decoded or is in the cache is not requested again.

    The pool takes its jobs from this object and may look ahead. When no job is waiting, ``plan_more`` is called.

    Args:
        pool: pool that returns results in the order of the jobs.
        plan_more: function that requests further media with ``request``; returns False if there is nothing to plan now.
        remembered_bytes: size of the cache for later samples; None: as much as may wait in the pool.
    """

    def __init__(self, pool: MediaPool, plan_more: Callable[[], bool], remembered_bytes: int | None = None) -> None:
        self._pool, self._plan_more = pool, plan_more
        self._limit = pool.max_waiting if remembered_bytes is None else remembered_bytes
        self._waiting: deque[Decoded] = deque()
        self._in_flight: deque[Decoded] = deque()
        self._known: OrderedDict[LoadJob, Decoded] = OrderedDict()
        self._bytes = 0
        self._results: Iterator[LoadResult] = iter(())

    def request(self, job: LoadJob, identity: str | None = None, epoch: int = 0) -> Decoded:
        """Returns the file, decoded now or later. A file in the cache keeps identity and epoch of its first request.

        A file that could not be read then is not in the cache: it is tried again.
        """
        decoded = self._known.get(job)
        if decoded is None:
            decoded = self._known[job] = Decoded(job, identity, epoch)
            self._waiting.append(decoded)
        else:
            self._known.move_to_end(job)
        return decoded

    def wait_for(self, decoded: Decoded) -> None:
        """Wait until the file is decoded or has failed."""
        while not decoded.done:
            result = next(self._results, None)
            if result is None:
                self._results = iter(self._pool.load(self._jobs()))
                continue
            arrived = self._in_flight.popleft()
            arrived.fill(result)
            if isinstance(arrived.error, UnreadMediaError) and self._known.get(arrived.job) is arrived:
                del self._known[arrived.job]
            self._remember(arrived)

    def _jobs(self) -> Iterator[LoadJob]:
        while self._waiting or self._plan_more():
            if self._waiting:
                decoded = self._waiting.popleft()
                decoded.version = version_of(decoded.job.path)
                self._in_flight.append(decoded)
                yield decoded.job

    def _remember(self, arrived: Decoded) -> None:
        self._bytes += arrived.nbytes
        while self._bytes > self._limit:
            oldest = next(decoded for decoded in self._known.values() if decoded.nbytes)
            self._bytes -= oldest.nbytes
            del self._known[oldest.job]
