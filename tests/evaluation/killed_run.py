"""A prediction process to be killed: ``python killed_run.py SET RUN``."""

import sys
from pathlib import Path

from qa_sets import StubEngine, stub_run

if __name__ == "__main__":
    stub_run(Path(sys.argv[1]), Path(sys.argv[2]), StubEngine(pause=0.004))
