import json
from dataclasses import replace

import av
import numpy as np
import pytest

from vidtune.errors import UserError
from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing
from vidtune.media.probe import probe
from vidtune.media.video import read_frames
from vidtune.world import TEST_SET, WorldSpec, build_world
from vidtune.world.render import draw_frames, draw_sound

AAC_PRIMING = 1024  # samples of silence that the encoder puts first
SPEC = WorldSpec(videos=6, images=3, texts=2, test_videos=3, choice_videos=2, size=64, sound=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    build_world(out, SPEC, texts=["A chat."], workers=1)
    return out


def files_of(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_videos_show_their_scene_and_sound_their_events(world):
    path = world / "videos" / "train_00002.mp4"
    scene = SPEC.scene("train", 2)
    info = probe(str(path))
    assert (info.width, info.height, info.fps, info.has_audio) == (64, 64, 8, True)
    assert info.num_frames == 24
    drawn = draw_frames(scene, SPEC.fps, SPEC.size)
    decoded = read_frames(str(path), range(24))
    assert np.abs(decoded.astype(int) - drawn).mean() < 4
    with av.open(str(path)) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])[AAC_PRIMING:]
    loudness = [np.abs(wave[: 28 * 1600].reshape(28, 1600)).mean(1) for wave in (heard, draw_sound(scene))]
    assert loudness[1].max() > 0.02
    assert np.corrcoef(*loudness)[0, 1] > 0.9


def test_the_eight_sampled_frames_see_every_shape(world):
    frames = VideoPreprocessing(size=48).load(str(world / "videos" / "train_00002.mp4"))
    assert frames.shape == (3, 8, 48, 48)
    assert np.abs(frames[:, 0] - frames[:, 7]).max() > 1


def test_annotations_are_in_the_official_format(world):
    captions = json.loads((world / "pt_json/captions.json").read_text())
    questions = json.loads((world / "ft_json/questions.json").read_text())
    assert len(captions) == 9
    assert {sample["id"][:11] for sample in questions} == {sample["id"] for sample in captions} | {
        "text_00000",
        "text_00001",
    }
    for sample in captions + questions:
        media = [key for key in ("video", "image") if key in sample]
        assert all((world / sample[key]).is_file() for key in media)
        first = sample["conversations"][0]["value"]
        assert first.startswith("".join(f"<{key}>\n" for key in media))
        assert [turn["from"] for turn in sample["conversations"]] == ["human", "gpt"] * (
            len(sample["conversations"]) // 2
        )


def test_of_each_clip_with_several_shapes_the_order_is_asked_once_in_either_file(world):
    truth = json.loads((world / "truth.json").read_text())["train"]
    told = {}
    for file in ("questions", "order"):
        for sample in json.loads((world / f"ft_json/{file}.json").read_text()):
            (question, reply) = (turn["value"] for turn in sample["conversations"])
            if "appears" in question:
                told.setdefault(sample["id"][:11], {})[question.split()[-1]] = reply
    assert told == {
        clip: {"first?": f"the {shapes[0]} appears first.", "last?": f"the {shapes[-1]} appears last."}
        for clip, facts in truth.items()
        if len(shapes := [actor["shape"] for actor in facts["actors"]]) > 1
    }


def test_the_test_set_is_in_the_official_layout(world):
    questions = json.loads((world / TEST_SET / "test_q.json").read_text())
    answers = json.loads((world / TEST_SET / "test_a.json").read_text())
    assert len(questions) == len(answers) > 0
    assert [q["question_id"] for q in questions] == [a["question_id"] for a in answers]
    assert all((world / TEST_SET / "videos" / f"{q['video_name']}.mp4").is_file() for q in questions)


def test_truth_has_a_box_per_actor_and_frame(world):
    truth = json.loads((world / "truth.json").read_text())["train"]["train_00001"]
    assert len(truth["boxes"]) == 24
    assert all(len(boxes) == len(truth["actors"]) for boxes in truth["boxes"])
    assert {event["kind"] for event in truth["events"]} >= {"appears"}


def test_the_same_spec_gives_the_same_bytes_and_a_stopped_call_goes_on(world, tmp_path):
    build_world(tmp_path, SPEC, texts=["A chat."], workers=1)
    assert files_of(tmp_path) == files_of(world)
    (tmp_path / "videos" / "train_00003.mp4").unlink()
    (tmp_path / "ft_json" / "questions.json").unlink()
    kept = (tmp_path / "videos" / "train_00001.mp4").stat().st_mtime_ns
    build_world(tmp_path, SPEC, texts=["A chat."], workers=1)
    assert files_of(tmp_path) == files_of(world)
    assert (tmp_path / "videos" / "train_00001.mp4").stat().st_mtime_ns == kept


def test_a_folder_with_another_world_is_refused(world):
    with pytest.raises(UserError, match="another size or seed"):
        build_world(world, replace(SPEC, seed=1), workers=1)


def test_the_tokenizer_loads_and_knows_the_words(world):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world / "tokenizer")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
    ids = tokenizer("Which way does the circle move?")["input_ids"]
    assert len(ids) < 12
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Which way does the circle move?"
