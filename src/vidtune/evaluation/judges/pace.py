"""When the next request is sent to an endpoint: pauses, one at a time while it is in trouble, and limits."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from vidtune.evaluation.judges.base import Usage
from vidtune.evaluation.judges.failures import Failure
from vidtune.evaluation.judges.limits import Limits
from vidtune.evaluation.judges.streaks import FailureStreaks


class Pace:
    """The pace of all requests to one endpoint."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.streaks = FailureStreaks(limits.failures)
        self._not_before = 0.0
        self._only_one = asyncio.Lock()

    async def pause(self, attempt: int, failure: Failure | None) -> None:
        """Wait before a repetition, and let every worker wait for the time that the server asks for.

        Args:
            attempt: number of the request about this item that is sent next, from 1.
            failure: of the request before it.
        """
        if failure is not None:
            longest = self.limits.longest_wait
            backoff = min(self.limits.backoff * 2 ** (attempt - 2), longest) * random.uniform(0.5, 1.0)
            asked = min(failure.retry_after, longest)
            self._not_before = max(self._not_before, time.monotonic() + asked if asked else 0.0)
            await asyncio.sleep(backoff)

    @asynccontextmanager
    async def turns(self) -> AsyncIterator[Callable[[], Coroutine[Any, Any, None]]]:
        """Gives what waits until the next request about an item may be sent.

        While the endpoint is not healthy one item has all the turns, until it is judged or given up.
        """
        alone = False

        async def turn() -> None:
            nonlocal alone
            if not self.streaks.healthy and not alone:
                await self._only_one.acquire()
                alone = not self.streaks.healthy
                if not alone:
                    self._only_one.release()
            while (remaining := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(remaining)

        try:
            yield turn
        finally:
            if alone:
                self._only_one.release()

    def reached(self, usage: Usage) -> str | None:
        """Returns the limit that is reached, in words; None: none is."""
        limits = self.limits
        if limits.max_calls is not None and usage.calls >= limits.max_calls:
            return f"{limits.max_calls} requests"
        if limits.max_cost is not None and usage.cost is not None and usage.cost >= limits.max_cost:
            return f"cost {limits.max_cost:.2f}"
        return None
