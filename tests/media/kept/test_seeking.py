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


def test_what_is_dropped_or_late_is_not_told():
    begun, going_on, told = threading.Event(), threading.Event(), Queue()

    def look(task: int) -> int:
        begun.set()
        going_on.wait(60)
        return task

    seeker = Seeker(look, lambda task, found: told.put(found), 0.0)
    seeker.add(1)
    assert begun.wait(60)
    assert seeker.add(2) and seeker.add(3)
    seeker.drop([1, 2])
    assert seeker.late() == [3] and seeker.late() == []
    going_on.set()
    assert not seeker.add(4) and told.empty()
