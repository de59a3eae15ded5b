"""Needle in a haystack: where pictures stand between clips, what is right, one value per cell, mistakes in the set."""

import json
from dataclasses import replace

import numpy as np
import pytest
from event_sets import Perfect
from PIL import Image
from qa_sets import quiet_predict
from synthetic_clips import write_clip
from tiny_checkpoint import write_checkpoint

from vidtune.errors import UserError
from vidtune.evaluation.checkpoint import AnsweringOptions
from vidtune.evaluation.predict import Session, predict_benchmark
from vidtune.evaluation.scores.scoring import score_run
from vidtune.registry import BENCHMARKS

ONE = {"image": "a.png", "question": "What is hidden?", "answer": "(Red) box"}
TWO = {"images": ["a.png", "b.png"], "question": "What hides B?", "caption": "B is blue.", "answer": "a box"}
SINGLE = replace(BENCHMARKS["needle"], clip_frames=2)
HOPS = replace(BENCHMARKS["needle_multi_hop"], clip_frames=2)


def write(folder, *needles, **changes):
    folder.mkdir(exist_ok=True)
    for name in ("a", "b"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / f"{name}.png")
    (folder / "movie.mp4").touch()
    value = {"video": "movie.mp4", "seconds": 4, "needles": needles, "lengths": [4, 8], "depths": [0, 0.5, 1]}
    (folder / "haystack.json").write_text(json.dumps(value | changes))
    return folder


def shown(question):
    return [ref.path.removesuffix(".png") if ref.stream == "image" else ref.start for ref in question.media]


def test_a_picture_stands_at_every_depth_of_every_length_between_clips_of_the_longest_video(tmp_path):
    questions = SINGLE.load(write(tmp_path, ONE, TWO)).questions
    assert [one.type for one in questions][::3] == ["4 frames, depth 0", "8 frames, depth 0"]
    assert [shown(one) for one in questions] == [
        *(["a", 0, 1], [0, "a", 1], [0, 1, "a"]),
        *(["a", 0, 1, 2, 3], [0, 1, "a", 2, 3], [0, 1, 2, 3, "a"]),
    ]
    assert [ref.end for ref in questions[2].media][:2] == [1, 2]


def test_several_pictures_stand_at_equal_distances(tmp_path):
    questions = HOPS.load(write(tmp_path, ONE, TWO)).questions
    assert [(one.type, shown(one)) for one in questions] == [
        ("4 frames", ["a", 0, 1, "b"]),
        ("8 frames", ["a", 0, 1, 2, 3, "b"]),
    ]
    (three,) = HOPS.load(write(tmp_path, {**TWO, "images": ["a.png", "b.png", "a.png"]}, lengths=[8])).questions
    assert shown(three) == ["a", 0, 1, "b", 2, 3, "a"]


def ask(benchmark, data, folder, replies):
    questions = benchmark.load(data)
    engine = Perfect(questions.questions, replies)
    quiet_predict(engine, questions, benchmark.protocol(prompt_format="v1", stop=("</s>",)), folder)
    return engine, score_run(folder, progress=False)


def test_every_cell_has_its_value(tmp_path, monkeypatch):
    monkeypatch.setitem(BENCHMARKS.loaded, "needle", SINGLE)
    replies = {"4 frames, depth 0.5, needle 0": "red boxes", "8 frames, depth 1, needle 0": "RED BOX, I think"}
    engine, score = ask(SINGLE, write(tmp_path / "set", ONE), tmp_path / "run", replies)
    assert engine.asked[1].question == "<video><image><video>\nWhat is hidden?"
    assert [ref.path for ref in engine.asked[0].media] == [
        str(tmp_path / "set" / name) for name in ("a.png", "movie.mp4", "movie.mp4")
    ]
    cells = {group.type: group.value("accuracy").official.value for group in score.groups}
    assert cells == {f"{n} frames, depth {d}": 100 * ((n, d) != (4, "0.5")) for n in (4, 8) for d in ("0", "0.5", "1")}
    assert score.value("accuracy").official.value == pytest.approx(500 / 6)


def test_of_several_hops_caption_and_answer_count_apart_and_together(tmp_path, monkeypatch):
    monkeypatch.setitem(BENCHMARKS.loaded, "needle_multi_hop", HOPS)
    replies = {"2 frames, needle 0": "B is blue. It is abox", "4 frames, needle 0": "C. So a box"}
    _, score = ask(HOPS, write(tmp_path / "set", TWO, lengths=[2, 4, 6, 8]), tmp_path / "run", replies)
    values = {name: score.value(name).official.value for name in ("caption", "answer", "both")}
    assert values == {
        name: pytest.approx(100 * right / 4) for name, right in (("caption", 3), ("answer", 3), ("both", 2))
    }
    assert "  4 frames: 1 of 1 answered, 1 videos\n    both         0.00" in str(score)


def test_stored_features_of_all_clips_are_read_in_place_of_the_video(tmp_path):
    data = write(tmp_path, ONE)
    folder = data / "features" / "video"
    folder.mkdir(parents=True)
    for place in range(4):
        assert not SINGLE.load(data).questions[0].media[1].features
        (folder / f"{place:04d}.safetensors").touch()
    found = SINGLE.load(data).questions[-1].media
    assert [ref.features for ref in found[:4]] == [
        (("video", str(folder / f"{place:04d}.safetensors")),) for place in range(4)
    ]


def test_the_grid_is_the_published_one_and_the_protocol_says_the_frames_of_a_clip(tmp_path):
    data = write(tmp_path, ONE)
    value = json.loads((data / "haystack.json").read_text())
    (data / "haystack.json").write_text(json.dumps({key: value[key] for key in ("video", "seconds", "needles")}))
    questions = BENCHMARKS["needle"].load(data).questions
    assert len(questions) == 60 and questions[-1].type == "10000 frames, depth 1" and len(questions[-1].media) == 51
    protocol = BENCHMARKS["needle"].protocol(prompt_format="v1")
    assert protocol.preprocessing == {"num_frames": 200} and protocol.question_media == {"image": {}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": [3]}, r"'lengths' is \[3\], expected a list of multiples of 2 frames"),
        ({"lengths": 4}, "'lengths' is 4, expected a list"),
        ({"lengths": [None]}, r"'lengths' is \[None\], expected a list"),
        ({"depths": [1.5]}, r"'depths' is \[1.5\], expected a list of numbers from 0 to 1"),
        ({"depths": [None]}, r"'depths' is \[None\], expected a list"),
        ({"needles": [{**ONE, "answer": "()"}]}, "entry 0: 'question', 'answer' or 'caption' is empty"),
        ({"seconds": 0}, "'seconds' is 0, expected the length"),
        ({"video": "no.mp4"}, "video 'no.mp4' does not exist"),
        ({"needles": [{**ONE, "image": "../a.png"}]}, "image '../a.png' leaves the folder"),
        ({"needles": [{**ONE, "answer": " "}]}, "entry 0: 'question', 'answer' or 'caption' is empty"),
        ({"needles": [TWO]}, "'needles' holds none of one image"),
    ],
)
def test_a_wrong_set_is_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        SINGLE.load(write(tmp_path, ONE, **changes))


def test_a_model_is_asked_about_parts_of_one_file(tmp_path, monkeypatch):
    monkeypatch.setitem(BENCHMARKS.loaded, "needle", SINGLE)
    data = write(tmp_path / "set", ONE, lengths=[4], depths=[0.5])
    write_clip(data / "movie.mp4", num_frames=40)
    model = str(write_checkpoint(tmp_path / "model"))
    options = {"answering": AnsweringOptions(workers=0), "session": Session(progress=False)}
    summary = predict_benchmark(model, "needle", data, tmp_path / "out", **options)
    assert (summary.answered, summary.errors) == (1, 0)
