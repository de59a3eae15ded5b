"""A process that may open few files ends in one line that names what it could not open, and loses nothing."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from qa_sets import write_set, write_video
from tiny_checkpoint import write_checkpoint


def evaluate(folder: Path, most_files: int) -> subprocess.CompletedProcess[str]:
    words = ["evaluate", "model", "--benchmark", "world_qa", "--data", "set", "--out", "out", "--device", "cpu"]
    return subprocess.run(
        [sys.executable, "-m", "vidtune", *words],
        cwd=folder,
        env=os.environ | {"VIDTUNE_DECODED": "off"},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files)),
    )


@pytest.mark.whole
def test_one_line_with_the_file_and_the_same_command_goes_on(tmp_path):
    (write_checkpoint(tmp_path / "model") / "recipe.yaml").unlink()
    folder = write_set(tmp_path / "set", [("one", "what?", "a"), ("two", "what?", "b")])
    for clip in folder.rglob("*.mp4"):
        write_video(clip, (20, 60, 160))
    for most_files in (14, 16, 18):
        done = evaluate(tmp_path, most_files)
        assert done.returncode == 2, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert "Too many open files" in line and line.removeprefix("error: ").partition(":")[0]
        assert "Traceback" not in done.stderr
    assert evaluate(tmp_path, 1024).returncode == 0
    assert not [file for file in (tmp_path / "out").rglob("*") if file.name.endswith(".tmp")]
