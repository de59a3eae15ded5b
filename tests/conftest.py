"""Fixtures that several folders use."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from launched import Launcher


@pytest.fixture(scope="session")
def launcher() -> Iterator["Launcher"]:
    """A process that has imported the libraries, and forks the processes that a test kills, stops or counts."""
    from launched import started_launcher  # imports torch, which many tests do without

    with started_launcher() as found:
        yield found
