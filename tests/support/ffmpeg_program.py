"""The ffmpeg program, which makes files that PyAV cannot make."""

import subprocess
from pathlib import Path

import pytest

TEST_PICTURE = "testsrc2=size=96x64:rate=25:duration={seconds}"
"""Source of frames that differ everywhere and count themselves."""


def ffmpeg(*arguments: object) -> None:
    """Run ffmpeg; a test that needs it is skipped where it is not installed."""
    program = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    command = [program, "-hide_banner", "-loglevel", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def encode(path: Path, *options: object, seconds: float = 3.6) -> Path:
    """Encode the test picture, 25 frames a second, and return its path."""
    source = ("-f", "lavfi", "-i", TEST_PICTURE.format(seconds=seconds), "-pix_fmt", "yuv420p")
    ffmpeg(*source, "-threads", 1, *options, path)
    return path
