"""Boxes as they are given, located in a video, and read from files of tracks: every mistake is one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vidtune.errors import UserError
from vidtune.media.boxes.forms import FORMS, GivenBox
from vidtune.media.boxes.located import BoxAt, LocatedTarget, locate
from vidtune.media.boxes.track_file import read_track
from vidtune.media.clip_times import ClipTimes
from vidtune.media.probe import MediaInfo

INFO = MediaInfo("video", 100, 50, ClipTimes.evenly(20, 10), False, 0)
FOLDER = MediaInfo("frames", 100, 50, ClipTimes.unknown(20), False, 0)


@pytest.mark.parametrize(
    "form, box",
    list(zip(FORMS, [(10, 5, 60, 45), (10, 5, 50, 40), (0.1, 0.1, 0.6, 0.9), (0.1, 0.1, 0.5, 0.8)], strict=True)),
)
def test_all_forms_name_one_box(form: str, box: tuple[float, ...]) -> None:
    assert GivenBox(box, 1.0, form=form).in_pixels(100, 50) == pytest.approx((10, 5, 60, 45))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given, line",
    [
        ({"box": (10, 5, 10, 45)}, r"the box 10,5,10,45 has no area .*; write x1,y1,x2,y2 with x1 < x2"),
        ({"box": (60, 5, 10, 45)}, "has reversed corners"),
        ({"box": (0, 0, 1e39, 1)}, "the box 0,0,1e.39,1 holds a number that is not finite"),
        ({"box": (10, 5, 0, 4), "form": "xywh"}, "has no area .*; write x,y,width,height above 0"),
        ({"box": (0.1, 0.1, 0.6, 0.9)}, "smaller than a pixel; fractions have the form xyxy_fraction"),
        ({"box": (10, 5, 60, 45), "form": "xyxy_fraction"}, "not within 0 to 1; boxes in pixels have the form xyxy$"),
        ({"box": (0.5, 0.5, 0.6, 0.2), "form": "xywh_fraction"}, "not within 0 to 1; .* the form xywh$"),
        ({"form": "xyhw"}, "box form 'xyhw' does not exist; did you mean 'xywh'"),
        ({"box": (1, 2, 3)}, "a box is four finite numbers"),
        ({"box": (1, 2, float("nan"), 4)}, "four finite numbers"),
        ({"box": None}, "four finite numbers"),
        ({"box": "abcd"}, "four finite numbers"),
        ({"box": {10, 5, 60, 45}}, "four finite numbers"),
        ({"box": np.zeros((4, 2))}, "four finite numbers"),
        ({"box": (1, 2, 10**400, 4)}, "four finite numbers"),
        ({"seconds": 10**400}, "the moment of a box is 1000"),
        ({"seconds": -1.0}, r"the moment of a box is -1\.0"),
        ({"seconds": "one"}, "the moment of a box is 'one'"),
        ({"seconds": None}, "a box needs its moment"),
        ({"frame": 3}, "a box needs its moment"),
        ({"seconds": None, "frame": 1.5}, r"the frame of a box is 1\.5"),
    ],
)
def test_a_wrong_box_is_refused_in_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        GivenBox(**{"box": (10, 5, 60, 45), "seconds": 1.0, **given})
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_numbers() -> None:
    box = GivenBox(np.array([10, 5, 60, 45], np.int16), np.float32(1))  # type: ignore[arg-type]
    assert box == GivenBox((10, 5, 60, 45), 1.0) and type(box.seconds) is float
    assert GivenBox((10, 5, 60, 45), frame=np.int64(3)).frame == 3  # type: ignore[arg-type]


def test_a_box_is_at_the_frame_that_is_shown() -> None:
    for seconds, frame in ((0.0, 0), (0.7, 7), (0.75, 7), (1.9, 19), (2.0, 19)):
        found = locate("v.mp4", INFO, GivenBox((10, 5, 60, 45), seconds), "--box")
        assert found == BoxAt(frame, pytest.approx(frame / 10), (10, 5, 60, 45))


def test_a_box_in_a_folder_is_in_a_frame_of_the_size_of_the_others(tmp_path: Path) -> None:
    for number in range(20):
        Image.new("RGB", (48 if number == 3 else 100, 50)).save(tmp_path / f"{number}.png")
    assert locate(str(tmp_path), FOLDER, GivenBox((0, 5, 60, 45), frame=19), "") == BoxAt(19, None, (0, 5, 60, 45))
    with pytest.raises(UserError, match=r"--box: .*3.png has 48x50 pixels, the first frame of its folder 100x50"):
        locate(str(tmp_path), FOLDER, GivenBox((0, 5, 60, 45), frame=3), "--box")


def test_a_box_that_is_partly_outside_stays_as_it_is() -> None:
    assert locate("v.mp4", INFO, GivenBox((-10, 5, 160, 45), 1.0), "--box").box == (-10, 5, 160, 45)


@pytest.mark.parametrize(
    "info, given, line",
    [
        (INFO, GivenBox((10, 5, 60, 45), 2.1), r"--box: 2\.1 s is asked about, but v.mp4 ends at 2 s"),
        (INFO, GivenBox((10, 5, 60, 45), frame=20), "--box: frame 20 is asked about, but the last one of v.mp4 is 19"),
        (FOLDER, GivenBox((10, 5, 60, 45), 1.0), "--box: the frames of v.mp4 have no times; give the number"),
        (
            INFO,
            GivenBox((100, 5, 160, 45), 1.0),
            r"--box: the box \(100, 5, 160, 45\) lies outside the frame of 100x50 pixels of v.mp4",
        ),
        (INFO, GivenBox((10, -45, 60, 0), 1.0), "outside"),
    ],
)
def test_a_box_that_is_not_in_the_video_is_refused(info: MediaInfo, given: GivenBox, line: str) -> None:
    with pytest.raises(UserError, match=line):
        locate("v.mp4", info, given, "--box")


@pytest.fixture
def target() -> LocatedTarget:
    return LocatedTarget("/a/v.mp4", INFO, BoxAt(5, 0.5, (10, 5, 60, 45)))


def test_the_boxes_of_a_track_are_spread_over_its_length(target: LocatedTarget) -> None:
    assert target.used(8) == (target.key,)
    boxes = [GivenBox((10, 5, 60, 45), frame=frame) for frame in reversed(range(15))]
    tracked = target.with_track(boxes, [""] * 15)
    assert [box.frame for box in tracked.used(8)] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert [box.frame for box in tracked.used(15)] == list(range(15)) and [b.frame for b in tracked.used(1)] == [0]


def write(folder: Path, **content: Any) -> Path:
    (folder / "t.json").write_text(json.dumps(content))
    return folder / "t.json"


def test_a_track_file_is_read(tmp_path: Path, target: LocatedTarget) -> None:
    entries = [
        {"seconds": 1.0, "box": [0.1, 0.1, 0.6, 0.9]},
        {"seconds": 0.2, "box": []},
        {"frame": 3, "box": [0, 0, 1, 1]},
    ]
    path = write(tmp_path, video="elsewhere/v.mp4", form="xyxy_fraction", boxes=entries)
    found = target.with_track(*read_track(path, Path(target.video), "xyxy"))
    assert [box.frame for box in found.track] == [3, 10] and found.track[0].box == (0, 0, 100, 50)
    link = tmp_path / "v.mp4"  # as in a hub cache
    link.symlink_to(tmp_path / "blob")
    for video in ("v.mp4", "blob"):
        assert len(read_track(write(tmp_path, video=video, boxes=[BOX]), link, "xyxy")[0]) == 1


BOX = {"seconds": 1.0, "box": [10, 5, 60, 45]}


@pytest.mark.parametrize(
    "content, line",
    [
        ({"video": "w.mp4", "boxes": []}, "is the track of 'w.mp4', but 'v.mp4' is asked about"),
        ({"boxes": [BOX, {**BOX, "seconds": 9}]}, r"boxes\[1\]: 9 s is asked about, but /a/v.mp4 ends at 2 s"),
        ({"boxes": [BOX, {**BOX, "box": [10, 5, 10, 5]}]}, r"boxes\[1\]: the box 10,5,10,5 has no area"),
        ({"boxes": [BOX, BOX]}, r"boxes\[1\]: there is another box at the same frame \(10\)"),
        ({"boxes": []}, "boxes: there is no box in it; leave the track out"),
        ({"boxes": [{**BOX, "box": []}]}, "boxes: there is no box in it"),
        ({"boxes": [BOX, {"seconds": -5, "box": []}]}, r"boxes\[1\]: the moment of a box is -5"),
        ({"boxes": [BOX], "form": ""}, r"boxes\[0\]: box form '' does not exist"),
        ({"boxes": [BOX], "form": 0}, r"boxes\[0\]: box form 0 does not exist"),
        ({"boxes": [BOX], "form": "boxes"}, r"boxes\[0\]: box form 'boxes' does not exist"),
        ({"boxes": [{**BOX, "second": 1}]}, r"boxes\[0\]: unknown key 'second'; did you mean 'seconds'"),
        ({"boxes": [{"seconds": 1.0}]}, r"boxes\[0\]: a box is four finite numbers"),
        ({"boxes": [3]}, r"boxes\[0\]: expected an object, found int"),
        ({"boxes": {}}, "boxes: expected a list, found dict"),
        ({}, "boxes: expected a list, found NoneType"),
        ({"box": []}, "unknown key 'box'; did you mean 'boxes'"),
    ],
)
def test_a_wrong_track_file_is_refused_in_one_line(
    content: dict[str, Any], line: str, tmp_path: Path, target: LocatedTarget
) -> None:
    path = write(tmp_path, **content)
    with pytest.raises(UserError, match=line) as caught:
        target.with_track(*read_track(path, Path(target.video), "xyxy"))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
