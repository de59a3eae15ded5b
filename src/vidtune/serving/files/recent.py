"""Values by key in the order in which they were used: those that nobody asked for longest go first."""

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Keeps values until their time is over; a value that is used begins its time anew. Not for several threads.

    Args:
        seconds: time of a value.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._values: OrderedDict[str, tuple[T, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def values(self) -> Iterable[T]:
        """All values, the next to go first."""
        return (value for value, _ in self._values.values())

    def put(self, key: str, value: T) -> None:
        """Keep a value, which becomes the last to go."""
        self._values[key] = value, time.monotonic()
        self._values.move_to_end(key)

    def use(self, key: str) -> T | None:
        """Returns a value, which becomes the last to go; None: it is not there, or its time is over."""
        self.let_old_go()
        if key not in self._values:
            return None
        value, _ = self._values[key]
        self.put(key, value)
        return value

    def remove(self, key: str) -> None:
        """Let a value go. Raises KeyError if it is not there."""
        del self._values[key]

    def let_first_go(self) -> None:
        """Let the value go that nobody asked for longest. Raises KeyError if there is none."""
        self._values.popitem(last=False)

    def let_old_go(self) -> float:
        """Let values go whose time is over. Returns the seconds until the next one may be."""
        now = time.monotonic()
        while self._values:
            _, used = next(iter(self._values.values()))
            if used + self.seconds > now:
                return used + self.seconds - now
            self.let_first_go()
        return self.seconds
