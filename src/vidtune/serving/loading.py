"""Reads media beside the model: a pool of processes that every request shares, in which a file that hangs is ended."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from vidtune.errors import MediaError, UnreadMediaError
from vidtune.generation.kept import Kept
from vidtune.media.pool import LoadJob, LoadResult, MediaPool
from vidtune.media.probe import MediaInfo
from vidtune.serving.limits import Limits
from vidtune.serving.media import TakenMedium
from vidtune.serving.problems import ApiProblem

_FACTS_KEPT = 4096


class MediaLoader:
    """Reads media and facts about them in a pool of processes.

    Args:
        limits: how long a medium may be, and how long reading it may take.
        workers: number of processes.
    """

    def __init__(self, limits: Limits, workers: int = 2) -> None:
        self.limits = limits
        self._pool = MediaPool(workers, limits.media_timeout)
        self._threads = ThreadPoolExecutor(2 * workers, thread_name_prefix="vidtune-loading")
        self._facts = Kept(_FACTS_KEPT)
        self.loaded = 0

    async def check(self, taken: TakenMedium) -> MediaInfo:
        """Returns facts about a medium. Raises ApiProblem if it cannot be read, is too long, or of another kind."""
        info = self._facts.get(taken.identity)
        if info is None:
            result = await self._run(LoadJob(taken.ref.path, None), taken.where, taken.said)
            info = result.info
            assert info is not None
            self._facts.put(taken.identity, info, 1)
        try:
            info = info.of_part(taken.ref.path, taken.ref.part)
        except MediaError as error:
            raise _unreadable(error, taken.where, taken.said) from None
        if info.duration > self.limits.media_seconds:
            message = f"{taken.where}: has {info.duration:,.0f} s, and {self.limits.media_seconds:,.0f} s are allowed"
            raise ApiProblem(400, message + "; give start and end", code="media_too_long", param=taken.where)
        return info

    async def load(self, job: LoadJob, where: str, said: str) -> LoadResult:
        """Returns the values of a medium. Raises ApiProblem if it cannot be read."""
        result = await self._run(job, where, said)
        self.loaded += 1
        return result

    def close(self) -> None:
        """End the processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.close()

    async def _run(self, job: LoadJob, where: str, said: str) -> LoadResult:
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._threads, lambda: next(iter(self._pool.load([job]))))
        if result.error is not None:
            raise _unreadable(result.error, where, said)
        return result


def _unreadable(error: MediaError, where: str, said: str) -> ApiProblem:
    code = "media_timeout" if isinstance(error, UnreadMediaError) else "media_not_readable"
    return ApiProblem(400, f"{where}: {said}: {error.reason}", code=code, param=where)
