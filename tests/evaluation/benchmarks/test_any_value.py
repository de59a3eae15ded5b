"""Test sets of long videos with any value at any place: read, or refused in one line that names the file."""

import json
from collections.abc import Iterator
from copy import deepcopy

import pytest
from choice_sets import lvb, lvbench, mlvu, mme, mvbench, perception_test, touch, write_json
from PIL import Image
from synthetic_clips import write_clip

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.check import _oddities, check_test_set
from vidtune.evaluation.benchmarks.multiple_choice import longvideobench
from vidtune.media.probe import probe
from vidtune.registry import BENCHMARKS

GONE = object()
VALUES = (GONE, None, True, float("nan"), 10**299, -1e308, 1e300, " ", "9" * 5000, "a\ud800\nb", [], [[1, None]], {})


def charades(folder):
    entries = [{"video": "a.mp4", "caption": "x", "timestamp": [1.0, 5.0]}]
    write_json(folder / "charades_sta_test.json", entries)
    touch(folder / "Charades_v1_480" / "a.mp4")


def haystack(folder):
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    touch(folder / "movie.mp4")
    one = {"image": "a.png", "question": "What?", "answer": "box"}
    two = {"images": ["a.png", "a.png"], "question1": "Q", "answer1": "C", "question2": "R", "answer2": "D"}
    value = {"video": "movie.mp4", "seconds": 100, "fps": 2.0, "needles": [one, two], "lengths": [40], "depths": [0.5]}
    write_json(folder / "haystack.json", value)


def with_subtitles(folder):
    mme(folder)
    touch(folder / "subtitle" / "a.srt")


SETS = {
    "mvbench": (mvbench, "json/action_sequence.json"),
    "mlvu": (mlvu, "json/4_count.json"),
    "lvbench": (lvbench, "video_info.meta.jsonl"),
    "perception_test": (perception_test, "mc_question_valid.json"),
    "longvideobench": (lvb, "lvb_val.json"),
    "longvideobench_interleaved": (lvb, "lvb_val.json"),
    "subtitles": (lvb, "subtitles/v_en.json"),
    "video_mme_subtitles": (with_subtitles, "videomme.json"),
    "charades_sta": (charades, "charades_sta_test.json"),
    "needle": (haystack, "haystack.json"),
    "needle_multi_hop": (haystack, "haystack.json"),
}


def places(value, place=()) -> Iterator[tuple]:
    """Keys that lead to every value inside of a value; of a list, to its first one."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*place, key)
        yield from places(one, (*place, key))


def changed(value, place, new):
    value = deepcopy(value)
    *above, last = place
    holder = value
    for key in above:
        holder = holder[key]
    if new is GONE:
        del holder[last]
    else:
        holder[last] = new
    return value


@pytest.fixture(autouse=True)
def _no_processes(tmp_path_factory, monkeypatch):
    """No file is looked at: every video has the metadata of one."""
    info = probe(write_clip(tmp_path_factory.mktemp("clip") / "v.mp4", num_frames=4))
    monkeypatch.setattr(longvideobench, "probed", lambda videos: dict.fromkeys(videos, info))


@pytest.mark.parametrize("name", SETS)
def test_any_value_at_any_place_is_read_or_refused_in_one_line(tmp_path, name):
    build, file = SETS[name]
    build(tmp_path)
    path, benchmark = tmp_path / file, BENCHMARKS["longvideobench" if name == "subtitles" else name]
    lines = path.suffix == ".jsonl"
    text = path.read_text()
    value = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    assert check_test_set(benchmark, tmp_path, {}).usable
    refused = 0
    for place in places(value):
        for new in VALUES:
            other = changed(value, place, new)
            path.write_text("\n".join(map(json.dumps, other)) if lines else json.dumps(other))
            try:
                questions = benchmark.load(tmp_path).questions
            except UserError as error:
                refused += 1
                told = str(error)
                assert "\n" not in told and (path.name in told or str(tmp_path) in told), (place, new)
                continue
            for question in questions:
                assert all(map(str, _oddities(question))) and len(question.media) < 1000
                json.dumps([question.reference, question.answer], allow_nan=False)
                f"{question.id} {question.question} {question.options}".encode()
    assert refused > 20
