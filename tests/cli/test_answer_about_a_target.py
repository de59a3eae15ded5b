"""``vidtune answer --box``: every mistake is one line and exit code 2."""

import json
from pathlib import Path

import pytest
from moving_square import write_moving_square
from tiny_checkpoint import write_checkpoint

from vidtune.cli.main import run


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video, tracks of it and of another one, and a model without regions."""
    folder = tmp_path_factory.mktemp("targets")
    write_moving_square(folder / "v.mp4")
    entry = {"seconds": 1.5, "box": [44, 28, 64, 48]}
    (folder / "v.json").write_text(json.dumps({"video": "v.mp4", "boxes": [entry]}))
    (folder / "other.json").write_text(json.dumps({"video": "w.mp4", "boxes": [entry]}))
    write_checkpoint(folder / "without")
    return folder


VIDEO, BOX = ["--video", "v.mp4"], ["--box", "32,22,52,42@1"]


@pytest.mark.parametrize(
    "arguments, line",
    [
        ([*VIDEO, "--box", "32,22,32,42@1"], "--box 32,22,32,42@1: the box 32,22,32,42 has no area"),
        ([*VIDEO, "--box", "32,22,52@1"], "--box 32,22,52@1: write X1,Y1,X2,Y2@SECONDS, such as 12,30,88,200@1.5"),
        ([*VIDEO, "--box", "32,22,52,42"], "write X1,Y1,X2,Y2@SECONDS"),
        ([*VIDEO, "--box", "32,22,52,42@#1.5"], "write X1,Y1,X2,Y2@SECONDS"),
        ([*VIDEO, "--box", "32,22,52,42@-1"], "the moment of a box is -1.0"),
        ([*VIDEO, "--box", "32,22,52,42@9"], "--box: 9 s is asked about, but "),
        ([*VIDEO, "--box", "32,22,52,42@#24"], "--box: frame 24 is asked about, but the last one of "),
        ([*VIDEO, "--box", "332,22,352,42@1"], "lies outside the frame of "),
        ([*VIDEO, *BOX, "--box-form", "xyhw"], "box form 'xyhw' does not exist; did you mean 'xywh'?"),
        ([*VIDEO, *BOX, "--box-form", "xyxy_fraction"], "not within 0 to 1"),
        ([*VIDEO, *BOX, *BOX], "--box: was given 2 times; ask about one target at a time"),
        (BOX, "--box: needs one --video in which the box is, and 0 were given"),
        ([*VIDEO, *VIDEO, *BOX], "--box: needs one --video in which the box is, and 2 were given"),
        ([*VIDEO, "--track", "v.json"], "--track: needs a target; give --box X1,Y1,X2,Y2@SECONDS"),
        ([*VIDEO, "--draw", "out.mp4"], "--draw: needs a target"),
        ([*VIDEO, *BOX, "--track", "other.json"], "other.json: is the track of 'w.mp4', but 'v.mp4' is asked about"),
        ([*VIDEO, *BOX, "--track", "none.json"], "none.json: cannot be read (No such file or directory)"),
        ([*VIDEO, *BOX, "--tracker", "csr"], "tracker 'csr' does not exist; did you mean 'csrt'?"),
        ([*VIDEO, *BOX, "--tracker", "csrt", "--track", "v.json"], "a track or a tracker that finds it; give one"),
        ([*VIDEO, *BOX, "--draw", "out.gif"], "out.gif: name a file that ends in .mp4"),
        (["--video", "v.json", *BOX], "v.json: is not a video file"),
        ([*VIDEO, *BOX], "system video_llava takes no boxes, only image, video: leave out --box"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], line: str, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    assert run(["answer", "without", "--question", "What is <box> doing?", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    assert line in captured.err
