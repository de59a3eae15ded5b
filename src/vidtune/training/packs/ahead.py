"""A thread that keeps a few packs ready ahead of the step that needs them."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType

from vidtune.processing.batch import Batch
from vidtune.training.packs.pack import LoadedPack

DEPTH = 8
CLOSING_SECONDS = 2.0  # a thread that waits for a hanging file is left behind; closing the pool ends it


class Ahead:
    """Runs an iterator in a thread and keeps a few of its items ready. `next` raises an error of the thread.

    Args:
        items: iterator that is used by the thread alone.
        depth: number of items that may wait.
        max_bytes: bytes that the batches of waiting items may take, about; one item may always wait. None: no limit.
    """

    def __init__(self, items: Iterator[LoadedPack], depth: int = DEPTH, max_bytes: float | None = None) -> None:
        self._items, self._depth, self._max_bytes = items, depth, max_bytes
        self._ready: deque[LoadedPack | BaseException | None] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="pack-loader", daemon=True)
        self.seconds_waited = 0.0

    def __enter__(self) -> "Ahead":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(CLOSING_SECONDS)

    def next(self) -> LoadedPack:
        """Returns the next item. The time spent waiting for it is added to ``seconds_waited``."""
        started = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._ready)
            item = self._ready.popleft()
            self._changed.notify_all()
        self.seconds_waited += time.perf_counter() - started
        if isinstance(item, BaseException):
            raise item
        if item is None:
            raise RuntimeError("no pack is left")
        return item

    def upcoming(self) -> Batch | None:
        """Returns the batch of the item that `next` will return, if it is ready; the item stays."""
        with self._changed:
            item = self._ready[0] if self._ready else None
        return item.batch if isinstance(item, LoadedPack) else None

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: LoadedPack | BaseException | None) -> bool:
        """Add an item as soon as there is room. Returns False if the queue was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(item))
            self._ready.append(item)
            self._changed.notify_all()
            return not self._closed

    def _has_room(self, item: LoadedPack | BaseException | None) -> bool:
        if not self._ready or not isinstance(item, LoadedPack):
            return True
        waiting = [other for other in self._ready if isinstance(other, LoadedPack)]
        fits = self._max_bytes is None or sum(pack.nbytes for pack in [*waiting, item]) <= self._max_bytes
        return fits and len(waiting) < self._depth
