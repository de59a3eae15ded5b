"""Predictions and judgements to be killed, in processes of their own."""

import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from event_sets import Perfect, event_run
from qa_sets import StubEngine, stub_run

from vidtune.evaluation.scores.scoring import score_run
from vidtune.generation.settings import Answer, Request
from vidtune.machine.locks import NumberedLocks
from vidtune.machine.ranks.place import ProcessPlace
from vidtune.machine.records import RecordWriter
from vidtune.registry import BENCHMARKS

PAUSE = 0.004


class Holding(StubEngine):
    """Never asks its last question: it is killed before, however late that comes."""

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        return super().answer(all_but_the_last(requests))


class HoldingEvents(Perfect):
    """The same, about events."""

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        return super().answer(all_but_the_last(requests))


def all_but_the_last(requests: Iterable[Request]) -> Iterator[Request]:
    for request, _ in pairwise(requests):
        yield request
    time.sleep(280)


def predict(kind: str, data: str, run: str) -> None:
    """Ask the questions of a set of ``kind``, "qa" or "events", all but the last, until the process is killed."""
    if kind == "qa":
        stub_run(Path(data), Path(run), Holding(pause=PAUSE))
    else:
        questions = BENCHMARKS["world_events"].load(Path(data)).questions
        event_run(Path(data), Path(run), HoldingEvents(questions, pause=PAUSE))


def evaluate(data: str, run: str, errors: dict[str, str], holding: int | None = None) -> None:
    """Ask the questions of a set together with the other processes of the launch; the first one judges the answers.

    Args:
        holding: the rank that does not end before it is killed.
    """
    place = ProcessPlace.from_environment()
    engine = (Holding if place.rank == holding else StubEngine)(pause=PAUSE, errors=errors)
    summary = stub_run(Path(data), Path(run), engine, rank=place.rank, ranks=place.world)
    assert summary.complete
    if place.rank == 0:
        append = RecordWriter.append

        def slowly(self: RecordWriter, record: object) -> None:
            append(self, record)
            time.sleep(PAUSE / 4)

        RecordWriter.append = slowly  # type: ignore[method-assign]
        score_run(Path(run), progress=False)


def free_locks(path: str) -> None:
    """Print which of the first locks of a file another process leaves free; take them."""
    locks = NumberedLocks(Path(path))
    print([number for number in range(7) if locks.take(number)])
