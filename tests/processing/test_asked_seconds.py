"""Seconds of the media of a question: read in a worker process, with a time limit."""

import os
from pathlib import Path

import pytest
from synthetic_clips import write_clip

from vidtune.data.sample import MediaRef
from vidtune.errors import MediaError
from vidtune.media.probe import probe
from vidtune.processing.asked_media import seconds_of


def test_the_seconds_of_one_clip(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4")
    ref = MediaRef("video", str(tmp_path / "clip.mp4"))
    assert seconds_of((ref,), 60) == probe(ref.path).duration > 0
    assert seconds_of((ref, ref), 60) is None and seconds_of((), 60) is None


def test_a_file_that_is_never_read_to_its_end_is_given_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(MediaError, match=r"pipe\.mp4"):
        seconds_of((MediaRef("video", str(tmp_path / "pipe.mp4")),), 1.0)
