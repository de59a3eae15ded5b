import json
from dataclasses import replace

import pytest

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.world import WORLD_TARGETS
from vidtune.world import TARGET_SETS, TargetWorldSpec, build_target_world
from vidtune.world.target_dataset import TARGET_SET_FILE


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("targets")
    build_target_world(out, TargetWorldSpec(videos=1, images=1, test_videos=2, choice_videos=1), workers=1)
    return out


def entries(world):
    return json.loads((world / TARGET_SETS["test"] / TARGET_SET_FILE).read_text())


def changed(tmp_path, world, **changes):
    """The test set with another first entry."""
    first, *others = entries(world)
    first = {key: value for key, value in {**first, **changes}.items() if value is not None}
    (tmp_path / TARGET_SET_FILE).write_text(json.dumps([first, *others]))
    return tmp_path


def test_questions_name_the_box_by_its_tag_and_bring_box_and_track(world):
    read = WORLD_TARGETS.load(world)
    assert read == WORLD_TARGETS.load(world / "eval" / "targets")
    assert read.folder == (world / TARGET_SETS["test"]).resolve()
    for question, entry in zip(read.questions, entries(world), strict=True):
        assert question.question == entry["question"].replace("<bbox>", "<box>") and "<box>" in question.question
        assert (question.answer, question.type, question.video) == (entry["answer"], entry["type"], entry["video_name"])
        assert question.file == entry["frame_path"] and not question.missing
        box, track = question.media
        assert (box.stream, box.path, track.stream, track.path) == ("box", question.file, "track", question.file)
        assert dict(box.extras) == {"boxes": (tuple(entry["key_frame_box"]),), "frames": (entry["key_frame_id"],)}
        assert dict(track.extras)["boxes"] == tuple(map(tuple, entry["track_list"]))


def test_the_protocol_holds_the_preprocessing_of_boxes_and_tracks():
    protocol = WORLD_TARGETS.protocol(prompt_format="v1")
    assert list(protocol.question_media) == ["box", "track"]
    assert protocol.hash != replace(WORLD_TARGETS, streams=("box",)).protocol(prompt_format="v1").hash


def test_a_missing_video_is_a_question_that_is_not_asked(world, tmp_path):
    [question, *_] = WORLD_TARGETS.load(changed(tmp_path, world, frame_path="videos/none.mp4")).questions
    assert question.missing and question.looked_for == "not videos/none.mp4"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"key_frame_box": [20, 5, 10, 9]}, "key_frame_box has reversed corners"),
        ({"frame_path": "../test_00000.mp4"}, "'../test_00000.mp4' is not a path below"),
    ],
)
def test_an_impossible_target_is_a_question_that_is_not_asked(world, tmp_path, changes, said):
    (tmp_path / entries(world)[1]["frame_path"]).parent.mkdir()
    (tmp_path / entries(world)[1]["frame_path"]).touch()
    [first, second, *_] = WORLD_TARGETS.load(changed(tmp_path, world, **changes)).questions
    assert first.missing and said in first.looked_for and not second.missing


@pytest.mark.parametrize("key", ["answer", "question", "frame_path"])
def test_an_entry_of_another_form_is_refused_by_its_number(world, tmp_path, key):
    with pytest.raises(UserError, match=rf"(entry|item) 0.*'{key}'"):
        WORLD_TARGETS.load(changed(tmp_path, world, **{key: None}))


def test_a_folder_without_a_set_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no targets.json here or in eval/targets/; give the folder"):
        WORLD_TARGETS.load(tmp_path)
