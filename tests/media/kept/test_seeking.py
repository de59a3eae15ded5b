"""A thread that looks for results: in order, once, and not for what nobody wants any more."""

import threading
from queue import Queue

from vidtune.media.kept.seeking import Seeker


def test_tasks_are_looked_for_in_order_and_told_once():
    told: Queue[tuple[int, int]] = Queue()
    seeker = Seeker(lambda task: task * task, lambda task, found: told.put((task, found)), None)
    assert all(seeker.add(task) for task in range(5))
    assert [told.get(timeout=60) for _ in range(5)] == [(task, task * task) for task in range(5)]
    assert seeker.deadline() is None and seeker.late() == [] == seeker.close()
    assert not seeker.add(5)


class Slow:
    """Looks for nothing before it may."""

    def __init__(self) -> None:
        self.begun, self.going_on, self.told = threading.Event(), threading.Event(), Queue()

    def look(self, task: int) -> int:
        self.begun.set()
        self.going_on.wait(60)
        return task

    def seeker(self, timeout: float | None) -> Seeker[int, int]:
        seeker = Seeker(self.look, lambda task, found: self.told.put((task, found)), timeout)
        assert all(seeker.add(task) for task in (1, 2, 3)) and self.begun.wait(60)
        return seeker


def test_what_is_dropped_is_not_told():
    slow = Slow()
    seeker = slow.seeker(None)
    seeker.drop([1, 2])
    slow.going_on.set()
    assert slow.told.get(timeout=60) == (3, 3) and slow.told.empty()
    seeker.close()


def test_after_one_that_is_late_none_is_looked_for():
    slow = Slow()
    seeker = slow.seeker(0.0)
    assert seeker.late() == [1, 2, 3] and seeker.late() == []
    slow.going_on.set()
    assert not seeker.add(4) and slow.told.empty()
