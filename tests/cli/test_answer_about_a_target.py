"""``vidtune answer --box``: every mistake is one line and exit code 2."""

import json
import os
from pathlib import Path

import pytest
from moving_square import place, write_moving_square
from PIL import Image
from tiny_checkpoint import write_checkpoint
from tiny_targets import write_target_checkpoint

from vidtune.cli.main import run
from vidtune.media.probe import probe

REAL = Path(os.environ.get("VIDTUNE_REAL_MEDIA", "/work/shared/media")) / "real_9.mp4"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video, tracks of it and of another one, and models without and with regions."""
    folder = tmp_path_factory.mktemp("targets")
    write_moving_square(folder / "v.mp4")
    entry = {"seconds": 1.5, "box": [44, 28, 64, 48]}
    (folder / "v.json").write_text(json.dumps({"video": "v.mp4", "boxes": [{"frame": 2, "box": place(2)}, entry]}))
    (folder / "other.json").write_text(json.dumps({"video": "w.mp4", "boxes": [entry]}))
    write_checkpoint(folder / "without")
    write_target_checkpoint(folder / "with")
    return folder


VIDEO, BOX = ["--video", "v.mp4"], ["--box", "32,22,52,42@1"]


@pytest.mark.parametrize(
    "arguments, line",
    [
        ([*VIDEO, "--box", "32,22,32,42@1"], "--box 32,22,32,42@1: the box 32,22,32,42 has no area"),
        ([*VIDEO, "--box", "32,22,52@1"], "--box 32,22,52@1: write X1,Y1,X2,Y2@SECONDS, such as 12,30,88,200@1.5"),
        ([*VIDEO, "--box", "32,22,52,42"], "write X1,Y1,X2,Y2@SECONDS"),
        ([*VIDEO, "--box", "32,22,52,42@#1.5"], "write X1,Y1,X2,Y2@SECONDS"),
        ([*VIDEO, "--box", "3_2,22,52,42@1"], "write X1,Y1,X2,Y2@SECONDS"),
        ([*VIDEO, "--box", "\u0663,22,52,42@1"], "write X1,Y1,X2,Y2@SECONDS"),
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


def answered(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, str]]:
    """The records of questions about <box>, after the command was seen to succeed."""
    asked = ["--question", "What is <box> doing?", "--max-new-tokens", "3", "--json"]
    assert run(["answer", "with", *asked, *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_target_is_asked_about_and_drawn(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    [plain] = answered(capsys, *VIDEO, *BOX, "--draw", "strip.png")
    assert plain["question"] == "What is <box> doing?" and plain["finish_reason"] == "length"
    assert Image.open("strip.png").size == (360, 260)
    tracked = ["--box", "0.333333333,0.34375,0.20833333,0.3125@#12", "--box-form", "xywh_fraction", "--track", "v.json"]
    (work / "v.json").write_text((work / "v.json").read_text().replace('"boxes"', '"form": "xyxy", "boxes"'))
    [other] = answered(capsys, *VIDEO, *tracked, "--draw", "out.mp4")
    assert other["answer"] != plain["answer"] and probe("out.mp4").num_frames == 24


@pytest.mark.skipif(not REAL.is_file(), reason="no folder of real media; name one in VIDTUNE_REAL_MEDIA")
def test_a_target_in_a_real_video_is_asked_about(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    box = ["--box", "0.2,0.3,0.5,0.7@2", "--box-form", "xyxy_fraction"]
    assert answered(capsys, "--video", str(REAL), *box, "--draw", "real.png")[0]["answer"]
    assert Image.open("real.png").size == (round(596 * 240 / 336), 260)
