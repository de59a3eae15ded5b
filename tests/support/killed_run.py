"""Predictions to be killed, in a process of their own."""

from pathlib import Path

from event_sets import Perfect, event_run
from qa_sets import StubEngine, stub_run

from vidtune.registry import BENCHMARKS

PAUSE = 0.004


def predict(kind: str, data: str, run: str) -> None:
    """Ask the questions of a set of ``kind``, "qa" or "events"."""
    if kind == "qa":
        stub_run(Path(data), Path(run), StubEngine(pause=PAUSE))
    else:
        event_run(Path(data), Path(run), Perfect(BENCHMARKS["world_events"].load(Path(data)).questions, pause=PAUSE))
