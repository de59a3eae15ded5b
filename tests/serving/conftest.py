"""A tiny model, and a folder of clips below which its server reads."""

import pytest
from synthetic_clips import write_clip
from tiny_checkpoint import write_checkpoint

import vidtune


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("served")
    write_clip(found / "a.mp4", num_frames=6)
    write_clip(found / "b.mp4", num_frames=8, size=(48, 96))
    return found


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="package")
def model(checkpoint):
    return vidtune.load(checkpoint, device="cpu", dtype="float32")
