import json
from collections import Counter
from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest

from vidtune.errors import UserError
from vidtune.media.probe import probe
from vidtune.media.video import read_frames
from vidtune.world import TARGET_SETS, TargetWorldSpec, build_target_world
from vidtune.world.scene import COLOURS, DIRECTIONS, SHAPES
from vidtune.world.target_dataset import (
    SCENE_CAPTIONS,
    SCENE_QUESTIONS,
    TARGET_CAPTIONS,
    TARGET_QUESTIONS,
    TARGET_SET_FILE,
    TARGETS_IN_WORDS,
    draw_target_frames,
)
from vidtune.world.target_questions import TELL, ask_of_target, say_of_target

SPEC = TargetWorldSpec(videos=4, images=2, texts=20, test_videos=3, choice_videos=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("targets")
    build_target_world(out, SPEC, texts=["A chat."], workers=1)
    return out


def files_of(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(world, name):
    return json.loads((world / name).read_text())


def test_actors_stay_apart_and_share_neither_colour_nor_shape():
    spec = replace(SPEC, videos=200)
    numbers, ways = Counter(), Counter()
    for _, scene in spec.scenes("train"):
        numbers[len(scene.actors)] += 1
        assert len({actor.colour for actor in scene.actors}) == len({actor.shape for actor in scene.actors})
        assert len({actor.shape for actor in scene.actors}) == len(scene.actors)
        for time in (0.0, 1.0, 1.75):
            taken = np.zeros((48, 48), int)
            for actor in scene.actors:
                left, top, right, bottom = (round(side * 48) for side in actor.box_at(time))
                assert 0 <= left < right <= 48 and 0 <= top < bottom <= 48
                taken[top:bottom, left:right] += 1
            assert taken.max() == 1
        ways.update(actor.direction for actor in scene.actors)
    assert numbers == {3: 100, 4: 100}
    assert set(ways) == {None, *DIRECTIONS} and min(ways.values()) > 60


def test_no_split_shows_a_scene_of_another():
    spec = replace(SPEC, videos=300, test_videos=60, choice_videos=60)
    shares = {
        split: {crc32(scene.signature.encode()) % 8 for _, scene in spec.scenes(split)}
        for split in ("train", "choice", "test")
    }
    assert shares == {"train": {2, 3, 4, 5, 6, 7}, "choice": {1}, "test": {0}}


def test_boxes_hold_their_actor_and_frames_leave_no_trail(world):
    samples = read(world, TARGET_CAPTIONS)
    for sample, actor in zip(samples, SPEC.scene("train", 0).actors, strict=False):
        path = world / sample["frame_path"]
        info = probe(str(path))
        assert (info.width, info.num_frames, info.has_audio) == (48, 8, False)
        frames = read_frames(str(path), range(8)).astype(int)
        drawn = draw_target_frames(SPEC.scene("train", 0), SPEC)
        assert np.abs(frames - drawn).mean() < 6
        for t, (left, top, right, bottom) in enumerate(sample["track_list"]):
            inside = (drawn[t] == COLOURS[actor.colour]).all(-1)
            assert inside.sum() > 30
            assert inside[top:bottom, left:right].sum() >= 0.9 * inside.sum()


def test_no_shape_leaves_a_trail():
    scene = SPEC.scene("train", 0)
    assert any(actor.direction for actor in scene.actors)
    last = draw_target_frames(scene, SPEC)[-1]
    for actor in scene.actors:
        left, top, right, bottom = (round(side * 48) for side in actor.box_at(1.75))
        last[top - 1 : bottom + 1, left - 1 : right + 1] = scene.background
    assert (last == scene.background).all()


def test_annotations_of_targets_are_in_the_official_schema(world):
    told, asked = read(world, TARGET_CAPTIONS), read(world, TARGET_QUESTIONS)
    actors = [actor for _, scene in SPEC.scenes("train") for actor in scene.actors]
    assert len(told) == len(asked) == len(actors)
    for caption, question, actor in zip(told, asked, actors, strict=True):
        assert (caption["question"], caption["caption"]) == (TELL, say_of_target(actor))
        assert (question["question"], question["caption"]) in {(q.text, q.reply) for q in ask_of_target(actor)}
        assert question["question"].count("<bbox>") == 1
        for sample in (caption, question):
            assert (world / sample["frame_path"]).is_file()
            assert sample["frame_id"] == list(range(8)) and len(sample["track_list"]) == 8
            assert sample["key_frame_id"] in range(1, 8)
            assert sample["key_frame_box"] == sample["track_list"][sample["key_frame_id"]]


@pytest.mark.parametrize("split", ["test", "choice"])
def test_a_test_set_asks_all_about_one_actor_of_every_clip(world, split):
    folder = world / TARGET_SETS[split]
    asked = json.loads((folder / TARGET_SET_FILE).read_text())
    for id_, scene in SPEC.scenes(split):
        about = [one for one in asked if one["video_name"] == id_]
        [actor] = [actor for actor in scene.actors if ask_of_target(actor)[0].answer == about[0]["answer"]]
        assert [(one["type"], one["answer"]) for one in about] == [(q.type, q.answer) for q in ask_of_target(actor)]
        assert all(one["answer"] in one["caption"] and (folder / one["frame_path"]).is_file() for one in about)


def test_conversations_about_whole_clips_are_in_the_official_format(world):
    for name in (SCENE_CAPTIONS, SCENE_QUESTIONS):
        samples = read(world, name)
        assert [next(key for key in ("video", "image") if key in sample) for sample in samples] == (
            ["video"] * 4 + ["image"] * 2
        )
        for sample in samples:
            stream = "video" if "video" in sample else "image"
            assert (world / sample[stream]).is_file()
            assert [turn["value"].startswith(f"<{stream}>\n") for turn in sample["conversations"][::2]] == [
                number == 0 for number in range(len(sample["conversations"]) // 2)
            ]


def test_texts_tell_what_is_asked_and_name_no_medium(world):
    for sample in read(world, TARGETS_IN_WORDS):
        question, answer = (turn["value"] for turn in sample["conversations"])
        assert "<" not in question and set(sample) == {"id", "conversations"}
        words = set(question.replace("?", "").split())
        assert words & {*COLOURS} and words & {*SHAPES} and words & {*DIRECTIONS, "stays"}
        said = set(answer.strip(".").split())
        assert said & words & {*COLOURS, *SHAPES, *DIRECTIONS, "stays"}


def test_the_same_spec_gives_the_same_bytes_and_another_is_refused(world, tmp_path):
    build_target_world(tmp_path, SPEC, texts=["A chat."], workers=1)
    assert files_of(tmp_path) == files_of(world)
    with pytest.raises(UserError, match="another size or seed"):
        build_target_world(tmp_path, replace(SPEC, seed=1), workers=1)
