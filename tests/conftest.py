"""Fixtures that several folders use."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from launched import Launcher


# bitsandbytes compiles a few functions when peft imports it: 3 s in every process. `make whole` lets it.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ["VIDTUNE_DECODED"] = "off"  # what a test decodes, no other test has decoded
os.fsync = lambda descriptor: None  # no test cuts the power, and a process that is killed loses nothing it has written
# A job that a shell began in the background ignores Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
gc.set_threshold(10_000, 10, 10)  # importing the libraries makes many objects, and none of them goes away


def pytest_collection_finish() -> None:
    """What is imported by now is never looked through again: collections are quick."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name what fails at once: a run that is ended from outside prints no list."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        sys.__stdout__.write(f"\n{report.outcome}: {report.nodeid} ({report.when}, {report.duration:.0f} s)\n")
        sys.__stdout__.flush()


@pytest.fixture(scope="session")
def launcher() -> Iterator["Launcher"]:
    """A process that has imported the libraries, and forks the processes that a test kills, stops or counts."""
    from launched import started_launcher  # imports torch, which many tests do without

    with started_launcher() as found:
        yield found
