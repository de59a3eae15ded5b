"""When a judge is given up: failed requests in a row, with no usable verdict between them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol as Interface

from vidtune.evaluation.judges.failures import Failure


class Item(Interface):
    """What is asked: ``id`` is its own, ``unjudged`` why an earlier session left it without what was asked for."""

    @property
    def id(self) -> str: ...

    @property
    def unjudged(self) -> str | None: ...


@dataclass
class _Streak:
    """Failures of one kind in a row.

    Args:
        last: number of the request sent last when the latest of them was counted.
    """

    count: int = 0
    last: int = -1
    items: set[str] = field(default_factory=set)


class FailureStreaks:
    """Counts failed requests of each kind since the last usable verdict.

    Requests that were under way together count as one failure. Where an item may be the cause, it alone proves nothing
    against an endpoint: such a streak ends the judging only when it holds a second item. An item that was left unjudged
    for the same reason before says nothing about the endpoint of today: it is in no streak.

    Once there was a usable verdict, replies that cannot be used are counted by items, each of which is asked about
    several times. Where such replies came between verdicts, this judge gives them now and then: each time allows a
    streak that is longer by ``most`` items, so that they are left unjudged and the judging goes on.

    Args:
        most: length of a streak that ends the judging; None: none does.
    """

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.proven = False
        self._sent = 0
        self._streaks: dict[str, _Streak] = {}
        self._between: Counter[str] = Counter()
        self._endpoint_fails = False

    @property
    def healthy(self) -> bool:
        """Whether the endpoint has given a usable verdict, and no trouble since; else one request is sent at a time."""
        return self.proven and not self._endpoint_fails

    def sent(self) -> int:
        """Returns the number of a request that is sent now."""
        self._sent += 1
        return self._sent

    def usable(self) -> None:
        """A usable verdict came."""
        self.proven, self._endpoint_fails = True, False
        self._between.update(self._streaks.keys())
        self._streaks.clear()

    def failed(self, failure: Failure, item: Item, request: int) -> bool:
        """A request failed. Returns whether the judging ends.

        Args:
            item: what was asked.
            request: number of the request, from `sent`.
        """
        if not failure.counts:
            return False
        self._endpoint_fails |= failure.endpoint
        if not failure.endpoint and item.unjudged is not None and item.unjudged.startswith(failure.kind):
            return False
        streak = self._streaks.setdefault(failure.kind, _Streak())
        streak.items.add(item.id)
        if request > streak.last:
            streak.count += 1
            streak.last = self._sent
        if self.most is None or streak.count < self.most:
            return False
        if self.proven and not failure.endpoint:
            return len(streak.items) >= self.most * (1 + self._between[failure.kind])
        return failure.any_item or len(streak.items) > 1
