"""Annotations about one target: schema, boxes that cannot be, folders of annotation files."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_tables import Source

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef, Turn
from vidtune.data.sources import of_each_file
from vidtune.data.tables import AnnotationTable
from vidtune.media.preprocessing.box_choice import box_problem
from vidtune.recipe.types import DataSource

ITEM: dict[str, Any] = {
    "video_name": "demo.mp4",
    "clip_path": "HC-STVG/clip_feature/demo.pkl",
    "frame_path": "HC-STVG/frames/demo",
    "frame_id": ["0001.jpg", "0002.jpg", "0003.jpg"],
    "track_list": [[12, 30, 88, 200], [], [15.5, 31, 90, 203]],
    "key_frame_id": "0007.jpg",
    "key_frame_box": [13, 30, 89, 201],
    "question": "What is the <bbox>doing in this video?",
    "caption": "The man opens the door.",
}


@pytest.fixture
def opened(tmp_path: Path):
    def opened(*changes: dict[str, Any]) -> AnnotationTable:
        path = tmp_path / "a.json"
        path.write_text(json.dumps([ITEM | change for change in changes]))
        (tmp_path / "media").mkdir(exist_ok=True)
        source = Source(path, tmp_path / "media", format="referring")
        return AnnotationTable.open([source], tmp_path / "cache")

    return opened


def refs(table: AnnotationTable, index: int = 0) -> dict[str, MediaRef]:
    return {ref.stream: ref for ref in table[index].media}


def test_a_target_is_a_box_and_a_track(opened, tmp_path: Path) -> None:
    table = opened({})
    sample, root = table[0], tmp_path / "media"
    assert sample.turns == (
        Turn("user", "<video>\nWhat is the <box>doing in this video?"),
        Turn("assistant", "The man opens the door."),
    )
    folder, track = str(root / "HC-STVG/frames/demo"), ((12, 30, 88, 200), (15.5, 31, 90, 203))
    assert sample.media == (
        MediaRef("video", str(root / "HC-STVG/clip_feature/demo.pkl")),
        MediaRef("box", folder, (), (("boxes", ((13, 30, 89, 201),)),), ("0007.jpg",)),
        MediaRef("track", folder, (), (("boxes", track),), ("0001.jpg", "0003.jpg")),
    )
    assert table.original_id(0) == "demo.mp4" and table.word_lengths.tolist() == [5] and table.has_media.all()


@pytest.mark.parametrize("missing", [{"key_frame_box": []}, {"key_frame_box": None, "key_frame_id": ""}])
def test_without_an_asked_box_all_boxes_of_the_track_may_be_it(opened, missing) -> None:
    found = refs(opened(missing))
    assert found["box"].extras == found["track"].extras and found["box"].frames == ("0001.jpg", "0003.jpg")


@pytest.mark.parametrize("empty", [{"track_list": [[], [], []]}, {"frame_id": [], "track_list": []}])
def test_an_empty_track_is_the_asked_box(opened, empty) -> None:
    found = refs(opened(empty))
    assert found["track"].extras == found["box"].extras == (("boxes", ((13, 30, 89, 201),)),)
    assert found["track"].frames == ("0007.jpg",)


def test_frames_of_a_video_file_are_numbers(opened) -> None:
    change = {"frame_path": "a.mp4", "frame_id": [0, 5, 9], "key_frame_id": 0, "clip_path": None, "question": None}
    table = opened(change)
    found = refs(table)
    assert found["video"].path == found["box"].path and found["video"].path.endswith("a.mp4")
    assert dict(found["box"].extras)["frames"] == (0,) and dict(found["track"].extras)["frames"] == (0, 9)
    assert found["track"].frames == () and table[0].turns[0].text == "<video>\n"


@pytest.mark.parametrize(
    ("change", "reason", "told"),
    [
        ({"track_list": [[12, 30, 88, 200], [], [15, 31, 15, 40]]}, "wrong box", "track_list[2] has no area"),
        ({"key_frame_box": [30, 9, 3, 80]}, "wrong box", "key_frame_box has reversed corners (30, 9, 3, 80)"),
        ({"key_frame_box": [1, 2, 3]}, "wrong box", "key_frame_box has 3 numbers"),
        ({"key_frame_box": [1, 2, float("nan"), 9]}, "wrong box", "not finite"),
        ({"key_frame_box": [1, 2, 10**400, 9]}, "wrong box", "not finite"),
        ({"key_frame_box": "1,2,3,4"}, "wrong box", "is '1,2,3,4'; expected a list"),
        ({"key_frame_box": {}}, "wrong box", "key_frame_box is {}; expected a list"),
        ({"key_frame_id": None}, "wrong frame", "key_frame_box is given without key_frame_id"),
        ({"key_frame_id": ""}, "wrong frame", "key_frame_box is given without key_frame_id"),
        ({"track_list": [[True, 2, 3, 4], [], []]}, "wrong box", "expected a list of 4 numbers"),
        ({"track_list": [[1, 2, 3, 4]]}, "frames and boxes differ in number", "names 3 frames, track_list has 1"),
        ({"track_list": [[], [], []], "key_frame_box": []}, "no box", "all boxes of track_list"),
        ({"key_frame_id": 3}, None, ""),
        ({"frame_id": ["a.jpg", "b.jpg", 7]}, "wrong frame", "give all by name or all by number"),
        ({"frame_id": [None, "b.jpg", "c.jpg"]}, "wrong frame", "its frame is None"),
        ({"frame_id": ["../x.jpg", "b.jpg", "c.jpg"]}, "unsafe path", "'../x.jpg' is not the name of a frame"),
        ({"key_frame_id": "a/x.jpg"}, "unsafe path", "'a/x.jpg' is not the name of a frame"),
        ({"frame_id": ["0001.png/", "b.jpg", "c.jpg"]}, "unsafe path", "'0001.png/' is not the name of a frame"),
        ({"frame_id": ["", "b.jpg", "c.jpg"]}, "unsafe path", "'' is not the name of a frame"),
        ({"key_frame_id": "\ud800.jpg"}, "unsafe path", "is not the name of a frame"),
        ({"frame_path": "\ud800"}, "unsafe path", "not a path below"),
        ({"key_frame_id": 10**400}, "wrong frame", "its frame is inf; expected the name or number of a frame"),
        ({"key_frame_id": -1}, "wrong frame", "no number of a frame"),
        ({"caption": " "}, "no caption", "has no word"),
        ({"caption": None}, "no caption", "is missing"),
        (
            {"track_list": [[0.1, 0.2, 0.5, 1], [], []], "key_frame_box": []},
            "boxes look like fractions",
            "write pixels",
        ),
        ({"frame_path": "/etc"}, "unsafe path", "not a path below"),
    ],
)
def test_a_wrong_sample_costs_itself_alone(opened, change, reason: str | None, told: str) -> None:
    table = opened(change, {})
    assert [ref.stream for ref in table[1].media] == ["video", "box", "track"]
    if reason is None:
        assert dict(refs(table)["box"].extras)["frames"] == (3,)
        return
    with pytest.raises(SampleProblem) as caught:
        table[0]
    assert caught.value.reason == reason and told in caught.value.detail and caught.value.sample == "a:0"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"frame_path": None}, "line 1: key 'frame_path': expected a string, found nothing"),
        ({"caption": 3}, "line 1: key 'caption': expected a string, found a number"),
        ({"question": []}, "line 1: key 'question': expected a string, found an empty one"),
        ({"clip_path": {}}, "line 1: key 'clip_path'"),
    ],
)
def test_an_item_of_another_form_is_named(opened, change, told: str) -> None:
    table = opened({}, change)
    assert table[0].media
    with pytest.raises(SampleProblem, match=f"sample a:1: {told}"):
        table[1]


def test_a_box_of_whole_numbers_beyond_any_float_is_not_finite() -> None:
    assert box_problem([0, 0, 10**400, 1]) == "holds a number that is not finite"


def test_stored_features_of_a_video_are_named_below_the_media_folder(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A boat."}]
    item = {"video": "valley/a.mp4", "video_clip": "valley/clip_feature/a.pkl", "conversations": turns}
    (tmp_path / "a.json").write_text(json.dumps([item]))
    (tmp_path / "b.json").write_text(json.dumps([item | {"video_clip": ["a.pkl", "b.pkl"]}]))
    sample = AnnotationTable.open([Source(tmp_path / "a.json", tmp_path)], tmp_path / "cache")[0]
    assert sample.media == (MediaRef("video", str(tmp_path / "valley/clip_feature/a.pkl")),)
    with pytest.raises(SampleProblem, match="sample b:0: line 1: key 'video_clip': 2 given for 1 video files"):
        AnnotationTable.open([Source(tmp_path / "b.json", tmp_path)], tmp_path / "cache")[0]


def test_a_folder_of_annotations_does_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", "._a.json"):
        (tmp_path / name).touch()
    found = of_each_file([DataSource(annotations=str(tmp_path))])
    assert [Path(source.annotations).name for source in found] == ["a.json", "b.json"]


def test_an_id_may_be_missing_in_every_way(opened) -> None:
    table = opened({"video_name": None}, {"id": None}, {"id": 7})
    assert [table.original_id(index) for index in range(3)] == ["", "demo.mp4", "7"]
