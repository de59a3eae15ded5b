"""Predictions and judgements to be killed, in processes of their own."""

import time
from pathlib import Path

from event_sets import Perfect, event_run
from qa_sets import StubEngine, stub_run

from vidtune.evaluation.scores.scoring import score_run
from vidtune.machine.locks import NumberedLocks
from vidtune.machine.ranks.place import ProcessPlace
from vidtune.machine.records import RecordWriter
from vidtune.registry import BENCHMARKS

PAUSE = 0.004


def predict(kind: str, data: str, run: str) -> None:
    """Ask the questions of a set of ``kind``, "qa" or "events"."""
    if kind == "qa":
        stub_run(Path(data), Path(run), StubEngine(pause=PAUSE))
    else:
        event_run(Path(data), Path(run), Perfect(BENCHMARKS["world_events"].load(Path(data)).questions, pause=PAUSE))


def evaluate(data: str, run: str, errors: dict[str, str]) -> None:
    """Ask the questions of a set together with the other processes of the launch; the first one judges the answers."""
    place = ProcessPlace.from_environment()
    engine = StubEngine(pause=PAUSE, errors=errors)
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
