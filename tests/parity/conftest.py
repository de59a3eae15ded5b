"""Fixtures written by the official implementations; another folder of the same form can stand in for the copy here."""

import os
from pathlib import Path

import pytest

# Before the files of a system are imported: their asserts say what differed.
pytest.register_assert_rewrite("videochat_flash")

FIXTURES = Path(os.environ.get("VIDTUNE_PARITY", Path(__file__).parent / "fixtures"))


@pytest.fixture(scope="session")
def parity_folder() -> Path:
    return FIXTURES
