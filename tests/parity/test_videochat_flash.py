"""Our VideoChat-Flash against the official code: the tests of all files of the folder `videochat_flash`."""

# ruff: noqa: F403
import re
from pathlib import Path

import pytest
from videochat_flash.data import *
from videochat_flash.dropout import *
from videochat_flash.files import *
from videochat_flash.merging import *
from videochat_flash.model import *
from videochat_flash.pixels import *
from videochat_flash.prompts import *
from videochat_flash.sampling import *
from videochat_flash.towers import *
from videochat_flash_fixture import read


@pytest.fixture(scope="module")
def config() -> dict:
    return read("config.json")


@pytest.fixture(scope="module")
def host_side() -> dict:
    return read("host_side.json")


@pytest.fixture(scope="module")
def inputs() -> dict:
    return read("inputs.safetensors")


@pytest.fixture(scope="module")
def expected() -> dict:
    return read("expected.safetensors")


def test_no_test_of_the_folder_is_left_out():
    """A test of one file would hide a test of the same name in another."""
    texts = [path.read_text() for path in (Path(__file__).parent / "videochat_flash").glob("*.py")]
    names = re.findall(r"^def (test_\w+)", "\n".join(texts), re.MULTILINE)
    assert names and len(names) == len(set(names)) and set(names) <= set(globals())
