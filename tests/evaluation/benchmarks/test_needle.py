"""Needle in a haystack: where pictures stand between clips, what is right, one value per cell, mistakes in the set."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from qa_sets import quiet_predict
from synthetic_clips import write_clip
from tiny_checkpoint import write_checkpoint

from vidtune.cli.main import run as run_command
from vidtune.errors import UserError
from vidtune.evaluation.scores.scoring import score_run
from vidtune.generation.settings import Answer
from vidtune.registry import BENCHMARKS

ONE = {"image": "a.png", "question": "What is hidden?", "answer": "(Red) box"}
TWO = {
    **{"images": ["a.png", "b.png"], "question1": "What is B? (", "answer1": "C"},
    **{"question2": "What hides it? (", "answer2": "(D)"},
}
SINGLE = replace(BENCHMARKS["needle"], clip_frames=2)
HOPS = replace(BENCHMARKS["needle_multi_hop"], clip_frames=2)


def write(folder, *needles, **changes):
    folder.mkdir(exist_ok=True)
    for name in ("a", "b"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / f"{name}.png")
    (folder / "movie.mp4").touch()
    value = {"video": "movie.mp4", "seconds": 4, "fps": 2, "needles": needles, "lengths": [4, 8], "depths": [0, 0.5, 1]}
    (folder / "haystack.json").write_text(json.dumps(value | changes))
    return folder


def shown(question):
    return [ref.path.removesuffix(".png") if ref.start is None else ref.start for ref in question.media]


def test_a_picture_stands_at_every_depth_of_every_length_between_clips_of_the_longest_video(tmp_path):
    questions = SINGLE.load(write(tmp_path, ONE, TWO)).questions
    assert [one.type for one in questions][::3] == ["4 frames, depth 0", "8 frames, depth 0"]
    assert [shown(one) for one in questions] == [
        *(["a", 0, 1], [0, "a", 1], [0, 1, "a"]),
        *(["a", 0, 1, 2, 3], [0, 1, "a", 2, 3], [0, 1, 2, 3, "a"]),
    ]
    assert [ref.end for ref in questions[2].media][:2] == [1, 2]
    assert questions[0].media[0].fps == 2  # a clip of one frame


def test_a_video_shorter_than_the_haystack_begins_anew(tmp_path):
    questions = SINGLE.load(write(tmp_path, ONE, seconds=3, depths=[1])).questions
    assert [shown(one) for one in questions] == [[0, 1, "a"], [0, 1, 2, 0, "a"]]
    with pytest.raises(UserError, match=r"0\.9 seconds hold no clip of 2 frames at 2 a second"):
        SINGLE.load(write(tmp_path, ONE, seconds=0.9))


def test_the_rate_leaves_the_number_of_clips_as_it_is(tmp_path):
    data = write(tmp_path, ONE, fps=0.3, lengths=[14], depths=[0])
    value = json.loads((data / "haystack.json").read_text())
    (data / "haystack.json").write_text(json.dumps({key: one for key, one in value.items() if key != "seconds"}))
    [question] = SINGLE.load(data).questions
    assert len({ref.start for ref in question.media}) == 8  # seven clips and a picture: none begins anew


def test_several_pictures_stand_at_equal_distances(tmp_path):
    questions = HOPS.load(write(tmp_path, ONE, TWO)).questions
    assert [(one.type, shown(one)) for one in questions] == [
        ("4 frames", ["a", 0, 1, "b"]),
        ("8 frames", ["a", 0, 1, 2, 3, "b"]),
    ]
    (three,) = HOPS.load(write(tmp_path, {**TWO, "images": ["a.png", "b.png", "a.png"]}, lengths=[8])).questions
    assert shown(three) == ["a", 0, 1, "b", 2, 3, "a"]


class Says:
    """Says the given answers, and these replies to requests by their ids."""

    def __init__(self, replies):
        self.replies, self.asked = replies, []

    def answer(self, requests):
        for request in requests:
            self.asked.append(request)
            yield Answer(request.id, self.replies.get(request.id, request.forced or ""), (1,), "forced")


def ask(benchmark, data, folder, replies, **rules):
    questions = benchmark.load(data)
    engine = Says(replies)
    protocol = benchmark.protocol(prompt_format="v1", stop=("</s>",)).model_copy(update=rules)
    quiet_predict(engine, questions, protocol, folder)
    return engine, score_run(folder, progress=False)


def test_every_cell_has_its_value_and_the_answer_is_given(tmp_path, monkeypatch):
    monkeypatch.setitem(BENCHMARKS.loaded, "needle", SINGLE)
    engine, score = ask(SINGLE, write(tmp_path / "set", ONE), tmp_path / "run", {"1": "red boxes", "5": "RED BOX"})
    assert engine.asked[1].question == "<video><video><video>\nWhat is hidden?"
    assert {request.forced for request in engine.asked} == {"(Red) box"}
    assert [ref.path for ref in engine.asked[0].media] == [
        str(tmp_path / "set" / name) for name in ("a.png", "movie.mp4", "movie.mp4")
    ]
    cells = {group.type: group.value("accuracy").official.value for group in score.groups}
    assert cells == {f"{n} frames, depth {d}": 100 * ((n, d) != (4, "0.5")) for n in (4, 8) for d in ("0", "0.5", "1")}
    assert score.value("accuracy").official.value == pytest.approx(500 / 6)


def test_a_generated_answer_has_to_begin_with_the_reference(tmp_path, monkeypatch):
    monkeypatch.setitem(BENCHMARKS.loaded, "needle", SINGLE)
    data = write(tmp_path / "set", ONE, lengths=[4])
    replies = {"0": "Red box, I think", "1": "red boxes", "2": "a red box"}
    engine, score = ask(SINGLE, data, tmp_path / "run", replies, forced=False)
    assert {request.forced for request in engine.asked} == {None}
    assert [group.value("accuracy").official.value for group in score.groups] == [100, 0, 0]
    assert score.identity == {"right": "begins with the answer"}


def test_of_several_hops_two_questions_count_apart_and_together(tmp_path, monkeypatch):
    monkeypatch.setitem(BENCHMARKS.loaded, "needle_multi_hop", HOPS)
    replies = {"0": "c)", "1": "B", "2-second": "E", "3": "E", "3-second": "E"}
    engine, score = ask(HOPS, write(tmp_path / "set", TWO, lengths=[2, 4, 6, 10], seconds=5), tmp_path / "run", replies)
    assert [(one.id, one.question.split("\n")[1], one.forced) for one in engine.asked[:2]] == [
        ("0", TWO["question1"], "C"),
        ("0-second", TWO["question2"], "(D)"),
    ]
    values = {name: score.value(name).official.value for name in ("cap", "qa", "both", "mean")}
    assert values == {"cap": 50, "qa": 50, "both": 25, "mean": 50}
    assert [group.type for group in score.groups] == [f"{length} frames" for length in (2, 4, 6, 10)]
    assert "  4 frames: 1 of 1 answered, 1 videos\n    both         0.00" in str(score)


def test_clips_have_no_feature_files(tmp_path):
    questions = SINGLE.load(write(tmp_path, ONE))
    with pytest.raises(UserError, match="fill a store of features: vidtune features extract"):
        SINGLE.with_features(questions, {"video": tmp_path}, "video")


def test_the_grid_is_the_published_one_and_the_protocol_says_the_frames_of_a_clip(tmp_path):
    data = write(tmp_path, ONE)
    value = json.loads((data / "haystack.json").read_text())
    (data / "haystack.json").write_text(json.dumps({key: value[key] for key in ("video", "needles")}))
    questions = BENCHMARKS["needle"].load(data).questions
    assert len(questions) == 60 and questions[-1].type == "10000 frames, depth 1" and len(questions[-1].media) == 251
    assert questions[-1].media[-2].end == 10_000
    protocol = BENCHMARKS["needle"].protocol(prompt_format="v1")
    assert protocol.preprocessing == {"num_frames": 40} and protocol.forced


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": [3]}, r"'lengths' is \[3\], expected a list of multiples of 2 frames"),
        ({"lengths": 4}, "'lengths' is 4, expected a list"),
        ({"lengths": [None]}, r"'lengths' is \[None\], expected a list"),
        ({"depths": [1.5]}, r"'depths' is \[1.5\], expected a list of numbers from 0 to 1"),
        ({"depths": [None]}, r"'depths' is \[None\], expected a list"),
        ({"needles": [{**ONE, "answer": "()"}]}, "entry 0: 'answer' is empty"),
        ({"seconds": 0}, "'seconds' is 0, expected a number above 0"),
        ({"fps": -1}, "'fps' is -1, expected a number above 0"),
        ({"seconds": 1e300}, r"json: 'seconds' is 1e\+300, expected a number above 0, up to 1e\+09"),
        ({"lengths": [10**12]}, "expected a list of multiples of 2 frames, up to 1,000,000"),
        ({"video": "x" * 300}, "video 'x*' does not exist"),
        ({"video": "no.mp4"}, "video 'no.mp4' does not exist"),
        ({"needles": [{**ONE, "image": "../a.png"}]}, "image '../a.png' leaves the folder"),
        ({"needles": [{**TWO, "answer2": " "}]}, "entry 0: 'answer2' is empty"),
        ({"needles": [{**TWO, "images": ["a.png"]}]}, "entry 0: 'images' holds one picture; give it as 'image'"),
        ({"needles": [TWO]}, "'needles' holds none of one image"),
    ],
)
def test_a_wrong_set_is_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        SINGLE.load(write(tmp_path, ONE, **changes))


def test_a_model_is_asked_about_parts_of_one_file_whose_features_a_command_stores(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(BENCHMARKS.loaded, "needle", SINGLE)
    monkeypatch.setitem(BENCHMARKS.loaded, "needle_multi_hop", HOPS)
    data = write(tmp_path / "set", ONE, TWO, lengths=[4], depths=[0.5, 1])
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(data / "b.png")
    write_clip(data / "movie.mp4", num_frames=40)
    model, store = str(write_checkpoint(tmp_path / "model")), str(tmp_path / "store")
    of_benchmark = ["--checkpoint", model, "--benchmark", "needle", "--data", str(data), "--workers", "0"]
    both = ["--benchmark", "needle_multi_hop"]
    for stored in ((3, 0, 1, 3), (0, 3, 0, 4)):  # two clips and a picture; of several hops one picture more
        assert run_command(["features", "extract", "--store", store, *of_benchmark, *both]) == 0
        told = re.findall(r"video: (\d) stored, (\d) found, 0 without it, 0 failed", capsys.readouterr().out)
        assert tuple(int(number) for pair in told for number in pair) == stored
    assert run_command(["features", "extract", "--store", store, *of_benchmark[:2]]) == 2
    assert "--checkpoint, --benchmark and --data belong together" in capsys.readouterr().err
    (tmp_path / "model" / "recipe.yaml").unlink()
    rope = {"rope_type": "yarn", "factor": 64.0, "original_max_position_embeddings": 8}
    rules = ["--out", str(tmp_path / "out"), "--protocol", f"rope={json.dumps(rope)}"]
    assert run_command(["evaluate", model, *of_benchmark[2:], *rules, "--store", store]) == 0
    run = tmp_path / "out" / "needle"
    assert json.loads((run / "run.json").read_text())["protocol"]["rope"] == rope
    assert len((run / "predictions.jsonl").read_text().splitlines()) == 2 and (run / "scores/metrics.json").is_file()
    work = json.loads((run / "work.jsonl").read_text())
    counted = {key: work[key] for key in ("media", "features_found", "media_loaded", "encodings")}
    assert counted == {"media": 3, "features_found": 6, "media_loaded": 0, "encodings": 0}
