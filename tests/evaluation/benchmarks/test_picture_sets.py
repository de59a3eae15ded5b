"""Benchmarks of pictures: layouts, bad files, official and strict values, middle frames, what is listed."""

import json

import pytest
from choice_sets import Chooser, touch, write_json
from picture_sets import SHORT, gqa, mme, pope, seed_bench, textvqa, write_lines
from PIL import Image
from qa_sets import quiet_predict, write_video

from vidtune.cli.main import run as vidtune
from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.check import facts_of, state_of_test_set
from vidtune.evaluation.benchmarks.downloads.records import Facts
from vidtune.evaluation.benchmarks.images.seed_bench import middle_frame
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.official_log import import_log
from vidtune.evaluation.scores.scoring import score_run
from vidtune.media.probe import probe
from vidtune.registry import BENCHMARKS

TEN = ["red"] * 9 + ["blue"]
ASKED = "What colour?\nReference OCR token: A\n" + SHORT


def scored(name, data, folder, replies):
    """The score of a run whose question at each place is answered by the table; it can be printed."""
    benchmark = BENCHMARKS[name]
    questions = benchmark.load(data).with_similar_files()
    quiet_predict(Chooser(replies), questions, benchmark.protocol(prompt_format="v1"), folder)
    score = score_run(folder, progress=False)
    printed = str(score)
    assert all(group.type in printed for group in score.groups)
    return score


def values(score, name, type=None):
    found = score.value(name, type)
    return round(found.official.value, 2), round(found.strict.value, 2)


def test_pope_scores_categories_and_the_mean_of_their_f1(tmp_path):
    data = pope(tmp_path / "pope", {"random": ["yes", "no"], "popular": ["yes", "yes", "no", "no"]})
    (data / "val2014" / "i3.jpg").unlink()
    score = scored("pope", tmp_path, tmp_path / "run", {0: "Yes.", 1: "No", 2: "yes", 3: "no", 4: "Yes"})
    assert values(score, "F1", "random") == (100.0, 100.0)
    assert values(score, "accuracy", "popular") == (33.33, 25.0)
    assert values(score, "F1", "popular") == (50.0, 40.0)  # a picture that is not there counts as a wrong answer
    assert values(score, "mean F1") == (75.0, 70.0)
    assert values(score, "F1") == (66.67, 57.14)
    assert [group.missing for group in score.groups] == [1, 0]
    assert "1 without file: no picture file" in str(score)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels[1:], "asks 'Is there a thing1 in the image.' about i1.jpg, but .* about i0.jpg"),
        (lambda labels: labels[:1], r"entry 1: .*coco_pope_random.json has no label left: it has 1"),
        (lambda labels: [*labels, labels[0]], "has 3 labels for 2 questions"),
        (lambda labels: [{**labels[0], "label": "maybe"}], "'label' is 'maybe', expected yes or no"),
    ],
)
def test_labels_that_are_not_those_of_the_questions_are_named(tmp_path, change, message):
    data = pope(tmp_path, {"random": ["yes", "no"]}, pictures=False)
    path = data / "coco" / "coco_pope_random.json"
    write_lines(path, change([json.loads(line) for line in path.read_text().splitlines()]))
    with pytest.raises(UserError, match=message):
        BENCHMARKS["pope"].load(data)


def test_a_check_speaks_of_pictures(tmp_path, capsys):
    data = pope(tmp_path / "pope", {"random": ["yes", "no", "no"]})
    (data / "val2014" / "i1.jpg").unlink()
    (data / "val2014" / "i2.jpg").rename(data / "val2014" / "i2.png")
    assert vidtune(["benchmarks", "check", "pope", str(tmp_path)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == [f"pope: 3 questions about 3 pictures, {data}", "1 pictures found (1 .jpg)"]
    assert "i2.jpg: val2014/i2.png" in lines and any(line.startswith("i1.jpg: not val2014/i1.jpg") for line in lines)
    assert lines[-1] == "2 of 3 questions can be asked"
    assert state_of_test_set(BENCHMARKS["pope"], tmp_path) == "not whole: 2 of 3 questions, 1 without a file"
    state = state_of_test_set(BENCHMARKS["gqa"], tmp_path)
    assert state.startswith("not ready: ") and "llava_gqa_testdev_balanced.jsonl of GQA" in state


def test_textvqa_is_scored_by_ten_people(tmp_path):
    annotations = [{"image_id": name, "question": "What Colour?", "answers": TEN} for name in ("a", "b")]
    data = textvqa(tmp_path / "textvqa", annotations, [("a", ASKED), ("b", ASKED)])
    score = scored("textvqa", tmp_path, tmp_path / "run", {0: "The red.", 1: "Blue"})
    assert values(score, "accuracy") == (65.0, 65.0)  # red is worth 1, blue, which one person said, 0.3
    write_json(data / "TextVQA_0.5.1_val.json", {"data": annotations[:1]})
    with pytest.raises(UserError, match=r"entry 1: .*_val.json has no 'what colour\?' about the picture b"):
        BENCHMARKS["textvqa"].load(data)
    write_json(data / "TextVQA_0.5.1_val.json", {"data": [{**annotations[0], "answers": TEN[:3]}]})
    with pytest.raises(UserError, match="entry 0: 'answers' holds 3, expected 10"):
        BENCHMARKS["textvqa"].load(data)


def test_mme_adds_points_of_pictures_both_of_whose_questions_are_answered(tmp_path):
    data = mme(tmp_path / "MME", {"count": ["1.jpg", "2.png"], "OCR": ["1.jpg"], "code_reasoning": ["1.png"]}, ["OCR"])
    questions = BENCHMARKS["mme"].load(tmp_path).questions
    assert [one.file for one in questions if one.type == "OCR"] == [
        "MME_Benchmark_release_version/OCR/images/1.jpg"
    ] * 2
    assert questions[0].question == f"Is it a in 1.jpg?\n{SHORT}" and questions[0].id == "count/1.jpg"
    (data / "MME_Benchmark_release_version" / "count" / "2.png").unlink()
    replies = {0: "Yes", 1: "Yes", 4: "yes", 5: "no", 6: "perhaps", 7: "No"}
    score = scored("mme", tmp_path, tmp_path / "run", replies)
    assert values(score, "points", "count") == (50.0, 25.0)
    assert values(score, "points", "OCR") == (200.0, 200.0) and values(score, "cognition points") == (50.0, 50.0)
    assert values(score, "perception points") == (250.0, 225.0)
    assert score.group("code_reasoning").unread == 1


def test_questions_of_the_archive_of_mme_find_their_answers(tmp_path):
    data = mme(tmp_path, {"OCR": ["1.jpg"]}, ["OCR"])
    asked = {"question_id": "OCR/1.jpg", "image": "OCR/1.jpg", "text": f"Is it b  in 1.jpg?\n{SHORT}"}
    write_lines(data / "llava_mme.jsonl", [asked])
    [one] = BENCHMARKS["mme"].load(data).questions
    assert (one.answer, one.file) == ("no", "MME_Benchmark_release_version/OCR/images/1.jpg")
    write_lines(data / "llava_mme.jsonl", [{**asked, "text": "Is it c?"}])
    with pytest.raises(UserError, match=r"MME_Benchmark_release_version has no 'Is it c\?' about OCR/1.jpg"):
        BENCHMARKS["mme"].load(data)
    write_lines(data / "llava_mme.jsonl", [{**asked, "image": ""}])
    with pytest.raises(UserError, match=r"llava_mme.jsonl: entry 0: .* has no 'Is it b in 1.jpg\?' about"):
        BENCHMARKS["mme"].load(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choice_c": None}, "entry 0: 'choice_c' is NoneType, expected str or int or float"),
        ({"answer": "AB"}, "entry 0: 'answer' is 'AB', which"),
        ({"question_type_id": 11}, "entry 0: 'question_type_id' is 11, which"),
        ({"data_type": "sound"}, "entry 0: 'data_type' is 'sound', expected image or video"),
        ({"question_id": [1]}, "entry 0: 'question_id' is list, expected str or int"),
    ],
)
def test_a_wrong_entry_of_seed_bench_is_named(tmp_path, change, message):
    path = seed_bench(tmp_path) / "SEED-Bench.json"
    value = json.loads(path.read_text())
    value["questions"][0] |= change
    write_json(path, value)
    with pytest.raises(UserError, match=message):
        BENCHMARKS["seed_bench"].load(tmp_path)
    write_json(path, {"question_type": {"a": [1]}, "questions": []})
    with pytest.raises(UserError, match="expected 'question_type', an object of numbers"):
        BENCHMARKS["seed_bench"].load(tmp_path)


def test_seed_bench_asks_about_pictures_and_middle_frames(tmp_path, capsys):
    data = seed_bench(tmp_path / "seed_bench")
    write_video(data / "videos" / "clips" / "7.mp4", (200, 20, 20), frames=9)
    assert vidtune(["benchmarks", "prepare", "seed_bench", "--data", str(tmp_path)]) == 2
    assert "8.mp4: no such video" in capsys.readouterr().out
    frame = data / "SEED-Bench-video-image" / "10_v3.png"
    assert Image.open(frame).size == (64, 64)
    questions = BENCHMARKS["seed_bench"].load(tmp_path).questions
    assert [one.missing for one in questions] == [False, False, False, True]
    assert questions[0].question.splitlines()[0] == "Which?" and questions[0].question.splitlines()[2] == "B. y"
    score = scored("seed_bench", tmp_path, tmp_path / "run", {0: "A", 1: "b", 2: "C"})
    assert values(score, "accuracy") == (50.0, 50.0)  # the published script counts what has no answer as wrong
    assert values(score, "image accuracy") == (50.0, 50.0) and values(score, "video accuracy") == (50.0, 50.0)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match=r"1 questions have no answer \(v4\)"):
        BENCHMARKS["seed_bench"].submission(run.predictions(), BENCHMARKS["seed_bench"].load(tmp_path))
    info = probe(data / "videos" / "clips" / "7.mp4")
    assert [middle_frame(info, one) for one in (None, [2, 6], [0.5, 0.9], [8, 30], [5.0, 6.0])] == [3, 3, 5, 8, 8]


def test_a_log_of_the_published_scripts_is_scored(tmp_path):
    entry = {"answer": "red", "imageId": "1", "isBalanced": True, "groups": {"global": None}, "semantic": []}
    types = {"structural": "query", "semantic": "attr"}
    entries = {str(n): {**entry, "question": f"What is {n}?", "types": types} for n in range(2)}
    data = gqa(tmp_path / "gqa", entries)
    lines = [
        {"question_id": id, "prompt": f"What is {id}?\n{SHORT}", "text": text, "answer_id": "x", "metadata": {}}
        for id, text in (("0", "Red."), ("1", "blue"))
    ]
    import_log(write_lines(tmp_path / "merge.jsonl", lines), "gqa", data, tmp_path / "run")
    score = score_run(tmp_path / "run", progress=False)
    assert values(score, "accuracy") == (50.0, 50.0) and values(score, "open") == (50.0, 50.0)
    assert score.value("binary").official is None


def test_answers_that_only_a_server_knows_are_not_scored_here(tmp_path):
    write_lines(
        tmp_path / "vizwiz" / "llava_test.jsonl",
        [{"question_id": "a.jpg", "image": "a.jpg", "text": f"What?\n{SHORT}"}],
    )
    touch(tmp_path / "vizwiz" / "test" / "a.jpg")
    score = scored("vizwiz", tmp_path, tmp_path / "run", {0: "A can"})
    assert score.value("accuracy").official is None and "vidtune submit" in score.value("accuracy").reason
    assert score.coverage == 1


def test_every_benchmark_says_what_must_be_downloaded_and_where_it_goes(capsys):
    assert [name for name, one in BENCHMARKS.items() if facts_of(one) is None] == []
    assert vidtune(["benchmarks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = next(place for place, line in enumerate(lines) if line.startswith("pope "))
    assert "  8910 questions, 500 pictures  " in lines[place] and lines[place].endswith("scored by metrics")
    assert (
        lines[place + 5] == "  get     COCO val2014 (http://images.cocodataset.org/zips/val2014.zip) -> pope/val2014/"
    )
    place = next(place for place, line in enumerate(lines) if line.startswith("mvbench_lmms_eval "))
    assert lines[place + 2].startswith("  counted annotation files of ")
    assert lines[place + 3] == "  get     the files of mvbench" and not lines[place + 4].startswith(" ")
    assert vidtune(["benchmarks", "--json"]) == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert listed["mvbench_lmms_eval"]["facts"] == listed["mvbench"]["facts"]
    assert listed["vizwiz"]["scored_by"] == "a server"
    with pytest.raises(ValueError, match="numbers and ``counted`` go together"):
        Facts(520, None, ())
