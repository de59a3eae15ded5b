"""When the next request is sent to an endpoint: pauses, one at a time while it is in trouble, and limits."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from vidtune.evaluation.judges.base import Usage
from vidtune.evaluation.judges.failures import Failure
from vidtune.evaluation.judges.limits import Limits, Prices
from vidtune.evaluation.judges.streaks import FailureStreaks


class Pace:
    """The pace of all requests to one endpoint.

    Args:
        prices: None: no cost is computed.
        usage: what was taken so far; it is added to.
        earlier: cost of what was asked before, which counts in the limit of cost.
    """

    def __init__(self, limits: Limits, prices: Prices | None, usage: Usage, earlier: float = 0.0) -> None:
        self.limits, self.prices, self.usage, self.earlier = limits, prices, usage, earlier
        self._under_way, self._dearest = 0, 0.0
        self._finished = asyncio.Event()
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

    def reached(self, expected: tuple[int, int] = (0, 0)) -> str | None:
        """Returns the limit that another request would pass, in words; None: none.

        Args:
            expected: prompt and completion tokens that it will probably take.
        """
        limits, usage = self.limits, self.usage
        if limits.max_calls is not None and usage.calls >= limits.max_calls:
            return f"{limits.max_calls} requests"
        if limits.max_cost is None or self.prices is None:
            return None
        # What a reply costs is only estimated until one has come.
        each = max(self._dearest, self.prices.cost(expected[0], 0 if self._dearest else expected[1]))
        spent = self.earlier + usage.spent
        if spent + (self._under_way + 1) * each > limits.max_cost:
            return f"cost {money(spent, usage.currency)} of {money(limits.max_cost, usage.currency)}"
        return None

    async def room(self, expected: tuple[int, int] = (0, 0)) -> str | None:
        """Wait while only the requests under way stand between another one and a limit. Returns as `reached`."""
        while (reached := self.reached(expected)) and self._under_way:
            self._finished.clear()
            await self._finished.wait()
        return reached

    @contextmanager
    def sending(self) -> Iterator[int]:
        """One request is under way. Gives its number, for `FailureStreaks`."""
        self.usage.calls += 1
        self._under_way += 1
        try:
            yield self.streaks.sent()
        finally:
            self._under_way -= 1
            self._finished.set()

    def count(self, tokens: tuple[int, int] | None, estimated: tuple[int, int]) -> None:
        """Add a response to the usage.

        Args:
            tokens: prompt and completion tokens as the endpoint counts them; None: it does not.
            estimated: about as many, by the lengths of the texts.
        """
        usage = self.usage
        cost = self.prices.cost(*(estimated if tokens is None else tokens)) if self.prices else 0.0
        self._dearest = max(self._dearest, cost)
        if tokens is None:
            usage.uncounted += 1
            usage.estimated_cost += cost
            return
        usage.prompt_tokens += tokens[0]
        usage.completion_tokens += tokens[1]
        if self.prices:
            usage.cost = self.prices.cost(usage.prompt_tokens, usage.completion_tokens)


def no_usage(prices: Prices | None) -> Usage:
    """The usage before the first request."""
    return Usage(cost=0.0, currency=prices.currency) if prices else Usage()


def money(amount: float, currency: str = "") -> str:
    """An amount in words; small ones with more digits."""
    digits = 2 if amount >= 0.1 or not amount else 4
    return f"{amount:.{digits}f} {currency}".rstrip()
