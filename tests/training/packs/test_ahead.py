"""Packs wait for the step that needs them: some, but no more than there is room for."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from vidtune.processing.batch import Batch, Example, pack
from vidtune.training.packs.ahead import Ahead
from vidtune.training.packs.pack import LoadedPack

TOKENS = 1000


def packs(count: int, made: list[int], error: Exception | None = None) -> Iterator[LoadedPack]:
    for number in range(count):
        made.append(number)
        ids = np.full(TOKENS, number)
        yield LoadedPack(number, 0, True, pack([Example(str(number), ids, ids)], [[]]))
    if error is not None:
        raise error


SIZE = next(packs(1, [])).nbytes


def settle(made: list[int], expected: int) -> int:
    """How many were made, once as many as expected were, and a moment in which one more could have been."""
    become_true(lambda: len(made) >= expected)
    time.sleep(0.02)
    return len(made)


def become_true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ready(waiting: Ahead) -> Batch:
    """The batch of the next item, once it is ready."""
    become_true(lambda: waiting.upcoming() is not None)
    batch = waiting.upcoming()
    assert batch is not None
    return batch


@pytest.mark.parametrize(
    ("limit", "ahead"),
    [({"depth": 3}, 3), ({"max_bytes": 4 * SIZE}, 4), ({"max_bytes": 10}, 1), ({"depth": 2, "max_bytes": 4 * SIZE}, 2)],
)
def test_as_many_are_made_ahead_as_there_is_room_for(limit: dict[str, int], ahead: int) -> None:
    made: list[int] = []
    with Ahead(packs(20, made), **limit) as waiting:
        for number in range(20):
            # And one in the hands of the thread, that waits for room.
            expected = min(20, number + ahead + 1)
            assert settle(made, expected) == expected
            ready(waiting)
            assert waiting.next().step == number
        assert waiting.upcoming() is None


def test_upcoming_is_what_next_gives_and_stays() -> None:
    with Ahead(packs(3, [])) as waiting:
        for _ in range(3):
            batch = ready(waiting)
            assert batch is waiting.upcoming()
            assert waiting.next().batch is batch


def test_an_error_arrives_in_its_place() -> None:
    with Ahead(packs(2, [], ValueError("the third"))) as waiting:
        assert [waiting.next().step for _ in range(2)] == [0, 1]
        with pytest.raises(ValueError, match="the third"):
            waiting.next()


def test_leaving_early_ends_the_thread() -> None:
    made: list[int] = []
    with Ahead(packs(100, made), depth=2) as waiting:
        waiting.next()
        settle(made, 4)
    assert not waiting._thread.is_alive()
    assert len(made) <= 4


def test_time_spent_waiting_is_counted() -> None:
    def when_awaited() -> Iterator[LoadedPack]:
        for item in packs(3, []):
            become_true(lambda: bool(waiting._changed._waiters))  # type: ignore[attr-defined]
            time.sleep(0.1)
            yield item

    waiting = Ahead(when_awaited())
    with waiting:
        for number in range(1, 4):
            waiting.next()
            assert waiting.seconds_waited >= 0.1 * number
