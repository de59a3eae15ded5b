"""Captions of boxed targets: the form of the test set, its questions, the published rule on lengths, official logs."""

import json

import pytest
from qa_sets import quiet_predict, records

from vidtune.cli.main import run as vidtune
from vidtune.errors import UserError
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.official_log import import_log
from vidtune.evaluation.scores.score_file import read_current_score, read_score
from vidtune.evaluation.scores.scoring import score_run
from vidtune.generation.settings import Answer
from vidtune.registry import BENCHMARKS

GOOD = [0, 0, 8, 8]


def entry(name, **changes):
    return {
        "video_name": f"{name}.mp4",
        "caption": f"The man {name} opens the door.",
        "clip_path": f"HC/features/{name}.pkl",
        "frame_path": f"HC/frames/{name}",
        "frame_id": ["1.jpg", "2.jpg", "3.jpg"],
        "track_list": [GOOD, [], [1, 1, 9, 9]],
        "key_frame_id": "2.jpg",
        "key_frame_box": [2, 2, 7, 7],
        **changes,
    }


def write(folder, entries, *, features=()):
    for name in {one["frame_path"] for one in entries}:
        (folder / "Artemis_data" / name).mkdir(parents=True, exist_ok=True)
    (folder / "Artemis_data" / "HC" / "features").mkdir(exist_ok=True)
    for name in features:
        (folder / "Artemis_data" / "HC" / "features" / f"{name}.pkl").touch()
    (folder / "videorefbench_json").mkdir(exist_ok=True)
    (folder / "videorefbench_json" / "hc_stvg_val.json").write_text(json.dumps(entries))
    return folder


class Speaker:
    """Gives the answers of questions by their position in the test set."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def answer(self, requests):
        for request in requests:
            self.asked.append(request)
            yield Answer(request.id, self.answers[int(request.id)], (), "eos")


def ask(data, folder, answers):
    benchmark = BENCHMARKS["videoref_bench"]
    engine = Speaker(answers)
    protocol = benchmark.protocol(prompt_format="llava_v1", stop=("</s>",))
    quiet_predict(engine, benchmark.load(data), protocol, folder)
    return engine


def test_the_question_has_the_box_and_the_track(tmp_path):
    entries = [entry("a"), entry("b", key_frame_box=[], clip_path=None), entry("c", track_list=[[], [], []])]
    data = write(tmp_path, entries, features=["a"])
    engine = ask(data, tmp_path / "run", ["The man waves.", "He sits.", "He runs."])
    first, second, _ = engine.asked
    assert first.question == "<video>\nWhat is the <box> doing in this video?"
    root = tmp_path / "Artemis_data" / "HC"
    assert [ref.stream for ref in first.media] == ["video", "box", "track"]
    assert first.media[0].features == (("video", str(root / "features" / "a.pkl")),)
    assert second.media[0].path == str(root / "frames" / "b") and not second.media[0].features
    boxes = [[dict(ref.extras)["boxes"] for ref in request.media[1:]] for request in engine.asked]
    assert boxes[0] == [((2, 2, 7, 7),), ((0, 0, 8, 8), (1, 1, 9, 9))]
    assert [ref.frames for ref in first.media[1:]] == [("2.jpg",), ("1.jpg", "3.jpg")]
    assert boxes[1] == [((0, 0, 8, 8), (1, 1, 9, 9))] * 2  # without a key box any of the track
    assert boxes[2] == [((2, 2, 7, 7),)] * 2  # without a track the key box
    assert records(tmp_path / "run" / "merge.jsonl")[0] == {
        "video_name": "a.mp4",
        "groundtruth": "The man a opens the door.",
        "pred": "The man waves.",
    }


def test_two_records_say_which_boxes_are_taken():
    official, whole = (
        BENCHMARKS[name].protocol(prompt_format="llava_v1") for name in ("videoref_bench", "videoref_bench_whole")
    )
    assert official.question_media == {"box": {}, "track": {"choice": "average"}}
    assert whole.question_media == {"box": {}, "track": {"choice": "whole"}} and whole.hash != official.hash
    generation = official.generation
    assert (generation.do_sample, generation.temperature, generation.max_new_tokens) == (True, 0.2, 1024)


@pytest.mark.parametrize("place", [".", "videorefbench_json", "videorefbench_json/hc_stvg_val.json"])
def test_paths_begin_where_one_of_them_exists(tmp_path, place):
    found = BENCHMARKS["videoref_bench"].load(write(tmp_path, [entry("a")]) / place)
    assert found.folder == tmp_path / "Artemis_data" and found.questions[0].file == "HC/frames/a"
    assert not found.features


def test_what_cannot_be_asked_is_named(tmp_path):
    entries = [entry("a"), entry("b", key_frame_box=[7, 2, 2, 7]), entry("c", frame_path="HC/none"), entry("d")]
    entries[3]["frame_path"] = "../d"
    data = write(tmp_path, entries[:2])
    (data / "videorefbench_json" / "hc_stvg_val.json").write_text(json.dumps(entries))
    reasons = [question.looked_for for question in BENCHMARKS["videoref_bench"].load(data).questions]
    assert reasons[0] is None and "key_frame_box has reversed corners" in reasons[1]
    assert reasons[2] == "not HC/none" and "is not a path below" in reasons[3]
    with pytest.raises(UserError, match=r"no hc_stvg_val\.json here"):
        BENCHMARKS["videoref_bench"].load(tmp_path / "Artemis_data" / "HC")


LONG = "The man walks. " * 20 + "."
NAMES = ["a", "b", "c", "d", "a"]
ANSWERS = ["The man sits down.", "Short", LONG, "The man d opens the door.", "The man a opens a window."]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A run with answers of all kinds; ``a`` is the name of two questions."""
    folder = tmp_path_factory.mktemp("scored")
    data = write(folder, [entry(name) for name in NAMES])
    ask(data, folder / "run", ANSWERS)
    return RunFolder(folder / "run"), score_run(folder / "run", progress=False), data


def test_answers_of_other_lengths_are_in_no_official_value(scored):
    run, score, _ = scored
    group = score.group("target")
    assert (group.questions, group.excluded, group.repeated, group.scored) == (5, 2, 1, 3)
    assert "2 left out as published" in str(score)
    assert any("takes answers of 6 to 299 characters" in line for line in score.reasons)
    rouge = score.value("Rouge", "target")  # of the two answers that are left, one is its reference
    assert rouge.official.value > 80 > rouge.strict.value
    assert read_current_score(run, "metrics") == score


def test_an_official_log_in_parts_scores_as_the_run_does(scored, tmp_path, capsys):
    run, score, data = scored
    parts = tmp_path / "answers"
    parts.mkdir()
    lines = (run.path / "merge.jsonl").read_text().splitlines(keepends=True)
    (parts / "2_0.json").write_text("".join(lines[:3]))
    (parts / "2_1.json").write_text("".join(lines[3:]))
    words = ["judge", str(parts), "--benchmark", "videoref_bench", "--data", str(data)]
    assert vidtune(words) == 0 and "2 left out as published" in capsys.readouterr().out
    assert read_score(tmp_path / "answers-videoref_bench", "metrics").groups == score.groups
    (parts / "2_1.json").write_text("".join(lines[3:4]) + '{"video_name": "a.mp4", "groundtruth": "x"}\n')
    with pytest.raises(UserError, match=r"2_1\.json: line 2: 'a\.mp4' is about 'x', but in the test set about"):
        import_log(parts, "videoref_bench", data, tmp_path / "other")
    (parts / "2_2.json").write_text("")
    with pytest.raises(UserError, match=r"2_2\.json is no part of a log of 2"):
        import_log(parts, "videoref_bench", data, tmp_path / "other")
    (parts / "2_1.json").unlink()
    (parts / "2_2.json").unlink()
    with pytest.raises(UserError, match=r"answers: 2_1\.json of 2 parts not there"):
        import_log(parts, "videoref_bench", data, tmp_path / "other")
    (parts / "3_0.json").write_text("")
    with pytest.raises(UserError, match="parts of several logs"):
        import_log(parts, "videoref_bench", data, tmp_path / "other")
    (parts / "merge.jsonl").write_text("".join(lines))  # it counts where it is there
    assert score_run(import_log(parts, "videoref_bench", data, tmp_path / "merged").path).groups == score.groups


def test_of_a_name_the_last_line_of_a_log_counts_as_the_published_scorer_reads_it(scored, tmp_path):
    run, score, data = scored
    lines = (run.path / "merge.jsonl").read_text().splitlines(keepends=True)
    again = '{"video_name": "a.mp4", "groundtruth": "The man a opens the door.", "pred": "%s"}\n'
    other = "Someone does something else."
    counting = {
        "run": lines,
        "reversed": lines[::-1],
        "again": [*lines, again % other],
        "other last": [lines[1], lines[0], *lines[2:4], again % other],
    }
    rouge = {}
    for name, log in counting.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(log))
        imported = import_log(tmp_path / f"{name}.jsonl", "videoref_bench", data, tmp_path / name).path
        rouge[name] = score_run(imported, progress=False).value("Rouge", "target").official.value
    assert rouge["run"] == score.value("Rouge", "target").official.value
    assert rouge["reversed"] < rouge["run"] and rouge["again"] < rouge["reversed"]
    assert rouge["again"] == rouge["other last"]
