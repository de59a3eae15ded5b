"""A prediction process to be killed: ``python killed_run.py qa|events SET RUN``."""

import sys
from pathlib import Path

from event_sets import Perfect, event_run
from qa_sets import StubEngine, stub_run

from vidtune.registry import BENCHMARKS

PAUSE = 0.004

if __name__ == "__main__":
    kind, data, run = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if kind == "qa":
        stub_run(data, run, StubEngine(pause=PAUSE))
    else:
        event_run(data, run, Perfect(BENCHMARKS["world_events"].load(data).questions, pause=PAUSE))
