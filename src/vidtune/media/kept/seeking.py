"""A thread that looks for kept results, for tasks that otherwise workers do."""

import threading
import time
from collections import deque
from collections.abc import Callable, Container
from typing import Generic, TypeVar

Task = TypeVar("Task")
Found = TypeVar("Found")


class Seeker(Generic[Task, Found]):
    """Looks for the result of one task after the other, in a thread.

    A read that never ends cannot be ended here, so the caller asks for what is `late`.

    Args:
        look: looks for the result of a task; called in the thread.
        looked: is told what it found, unless the task was dropped or is late; called in the thread.
        timeout: seconds that looking for one result may take; None: no limit.
    """

    def __init__(
        self, look: Callable[[Task], Found], looked: Callable[[Task, Found], None], timeout: float | None
    ) -> None:
        self._look, self._looked, self._timeout = look, looked, timeout
        self._tasks: deque[Task] = deque()
        self._since = 0.0
        self._changed = threading.Condition()
        self._ended = False
        threading.Thread(target=self._run, name="vidtune-kept-media", daemon=True).start()

    def add(self, task: Task) -> bool:
        """Take a task. Returns False where it is not taken, because an earlier one was late."""
        with self._changed:
            if self._ended:
                return False
            if not self._tasks:
                self._since = time.monotonic()
            self._tasks.append(task)
            self._changed.notify_all()
            return True

    def drop(self, tasks: Container[Task]) -> None:
        """Forget these tasks."""
        with self._changed:
            self._tasks = deque(task for task in self._tasks if task not in tasks)

    def deadline(self) -> float | None:
        """Time at which the first task is late; None: never."""
        with self._changed:
            return self._since + self._timeout if self._tasks and self._timeout is not None else None

    def late(self) -> list[Task]:
        """All tasks, if the first one is late: none is looked for any more."""
        deadline = self.deadline()
        return self.close() if deadline is not None and time.monotonic() >= deadline else []

    def close(self) -> list[Task]:
        """End the thread, unless it is in the middle of a read. Returns the tasks that are left."""
        with self._changed:
            self._ended = True
            left, self._tasks = list(self._tasks), deque()
            self._changed.notify_all()
            return left

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tasks or self._ended)
                if self._ended:
                    return
                task, self._since = self._tasks[0], time.monotonic()
            found = self._look(task)
            with self._changed:
                if not self._tasks or self._tasks[0] is not task:
                    continue  # nobody waits for it any more
                self._tasks.popleft()
            self._looked(task, found)
