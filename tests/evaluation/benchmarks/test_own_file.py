"""A test set of one's own in one file: what a line says, how it is scored, answers of other models, wrong lines."""

import json
from pathlib import Path

import pytest
from choice_sets import Chooser, touch
from qa_sets import quiet_predict

from vidtune.cli.main import run as vidtune
from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.own.finding import benchmark_named, medium_of_run
from vidtune.evaluation.evaluate import planned_runs
from vidtune.evaluation.judges.prompts import VIDEO_QA
from vidtune.evaluation.metrics.choices import named
from vidtune.evaluation.metrics.punctuation import is_same_text
from vidtune.evaluation.models.rules import protocol_by_frames
from vidtune.evaluation.protocol_of_checkpoint import _templates
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.judgements import items_to_judge
from vidtune.evaluation.scores.comparison import compare_runs
from vidtune.evaluation.scores.scoring import score_run
from vidtune.registry import SYSTEMS

CHOICE = {"id": "q1", "video": "v/a.mp4", "question": "Which?", "options": ["A. red", "B. blue"], "answer": "B"}
TEXT = {"id": "q2", "video": "v/b.mp4", "question": "What?", "options": ["1", "2"], "answer": 1, "type": "count"}
OPEN = {"id": 3, "video": "v/a.mp4", "question": "Who?", "answers": ["a man", "one man"], "start": 1, "end": 2.5}
GONE = {"video": "v/gone.mp4", "question": "Where?", "answer": "at sea", "type": "count"}


def written(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def mine(tmp_path):
    for name in ("a", "b"):
        touch(tmp_path / "set" / "v" / f"{name}.mp4")
    return written(tmp_path / "set" / "mine.jsonl", CHOICE, TEXT, OPEN, GONE)


def asked(path, folder, replies):
    benchmark = benchmark_named(str(path))
    protocol = benchmark.protocol(prompt_format="v1")
    engine = Chooser(replies)
    questions = benchmark.load(benchmark.default_data).with_similar_files()
    quiet_predict(engine, questions, protocol, folder / protocol.run_name)
    return engine, folder / protocol.run_name


def test_a_file_of_one_s_own_is_asked_and_scored_by_letter_and_text(mine, tmp_path):
    (planned,) = planned_runs(None, [str(mine)])
    planned.require_readable("metrics")
    assert planned.data == mine.parent
    engine, folder = asked(mine, tmp_path, {0: "B. It is blue", 1: "2", 2: "One man."})
    texts = [request.question.split("\n", 1)[1] for request in engine.asked]
    assert texts[0] == "Which?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly."
    assert texts[1:] == ["Who?", texts[2]]  # questions about one video together; one without options by its words alone
    (part,) = engine.asked[1].media
    assert (part.start, part.end, part.path) == (1.0, 2.5, str(mine.parent / "v/a.mp4"))
    score = score_run(folder, progress=False)
    assert folder.name == "mine" and score.benchmark == "mine.jsonl" and score.judge == "metrics"
    assert score.accuracy == pytest.approx(2 / 3) and score.value("accuracy").strict.value == 50.0
    assert "no video file (4: not v/gone.mp4)" in str(score)
    assert score.value("accuracy", "count").official.value == 0.0


def test_answers_of_another_model_are_scored_and_compared(mine, tmp_path, capsys):
    _, folder = asked(mine, tmp_path, {0: "A", 1: "1", 2: "a man"})
    score_run(folder, progress=False)
    answers = [{"id": "q1", "answer": "(B) blue"}, {"id": "q2", "answer": 1}, {"id": 3, "answer": "nobody"}]
    log = written(tmp_path / "other.jsonl", *answers)
    assert vidtune(["judge", str(log), "--benchmark", str(mine)]) == 0
    other = tmp_path / "other-mine"
    assert "accuracy     66.67" in capsys.readouterr().out and RunFolder(other).info.data.file == str(mine)
    compared = compare_runs(folder, other)
    assert (compared.questions, compared.agreement.only_first, compared.agreement.only_second) == (4, 1, 1)
    assert vidtune(["report", str(folder), str(other), "--out", str(tmp_path / "page.html")]) == 0
    assert vidtune(["export", str(folder), str(other), "--to", "markdown"]) == 0
    assert "mine.jsonl accuracy" in capsys.readouterr().out
    mine.rename(tmp_path / "moved.jsonl")  # stored runs are scored without their file
    assert score_run(other, progress=False).accuracy == pytest.approx(2 / 3)
    wrong = written(tmp_path / "wrong.jsonl", {"id": "q9", "answer": "A"})
    assert vidtune(["judge", str(wrong), "--benchmark", str(tmp_path / "moved.jsonl"), "--data", str(mine.parent)]) == 2
    assert f"'q9' is no question of {tmp_path / 'moved.jsonl'}" in capsys.readouterr().err


def test_a_type_that_fakes_a_line_stays_in_its_own(mine, tmp_path, capsys):
    fake = "count\nerror: all is lost"
    written(mine, CHOICE, TEXT, {**OPEN, "type": fake})
    logs = [written(tmp_path / f"{name}.jsonl", {"id": "q1", "answer": name}) for name in ("A", "B")]
    for log in logs:
        assert vidtune(["judge", str(log), "--benchmark", str(mine)]) == 0
    assert vidtune(["compare", str(tmp_path / "A-mine"), str(tmp_path / "B-mine")]) == 0
    said = capsys.readouterr()
    assert said.out.count(r"count\nerror: all is lost") >= 2 and "\nerror: " not in said.out + said.err


def test_two_versions_of_a_file_are_two_test_sets(mine, tmp_path):
    first = benchmark_named(str(mine)).protocol(prompt_format="v1")
    again = {**TEXT, "note": "not read", "answer": "1"}
    written(mine, CHOICE, "\n", again, OPEN, GONE)
    assert benchmark_named(str(mine)).protocol(prompt_format="v1") == first
    _, one = asked(mine, tmp_path / "one", {})
    written(mine, CHOICE, {**TEXT, "answer": 2}, OPEN, GONE)
    assert benchmark_named(str(mine)).protocol(prompt_format="v1").hash != first.hash
    _, two = asked(mine, tmp_path / "two", {})
    with pytest.raises(UserError, match="were asked different versions"):
        compare_runs(one, two)
    with pytest.raises(UserError, match="another run"):
        asked(mine, tmp_path / "one", {})


def test_questions_without_options_are_judged_or_compared_as_text(tmp_path):
    touch(tmp_path / "v" / "a.mp4")
    path = written(tmp_path / "open.jsonl", OPEN)
    _, folder = asked(path, tmp_path, {0: "I see a man there"})
    assert score_run(folder, progress=False).judge == "rules-v1"
    assert score_run(folder, progress=False).accuracy == 1.0
    assert score_run(folder, "metrics", progress=False).accuracy == 0.0
    _, other = asked(path, tmp_path / "other", {0: "It was one man"})
    assert score_run(other, progress=False).accuracy == 1.0  # right by the second of its answers
    (item,) = items_to_judge(RunFolder(other).predictions())
    assert "Correct Answer: a man or one man\n" in VIDEO_QA.messages(item)[-1]["content"]
    assert sorted(RunFolder(folder).judges()) == ["metrics", "rules-v1"]
    (planned,) = planned_runs(None, ["world_qa"], tmp_path)
    with pytest.raises(UserError, match="no metrics score"):
        planned.require_readable("metrics")


WRONG = {
    "no 'answer'": {**OPEN, "answers": None},
    "no 'question'": {**GONE, "question": None},
    "no 'video' or 'image'": {**GONE, "video": None},
    "'video' and an 'image'": {**GONE, "image": "a.png"},
    "did you mean 'options'": {**GONE, "choices": ["x", "y"]},
    "'type'": {**OPEN, "typ": "x"},
    "is no option: write a letter, A to B": {**CHOICE, "answer": "C"},
    "two of its options": {**CHOICE, "options": ["x", "x"]},
    "letter and the text of option B": {**CHOICE, "options": ["B", "A"], "answer": "A"},
    "not behind its start": {**OPEN, "end": 0.5},
    "stands twice": '{"video": "a.mp4", "question": "?", "answer": "x", "answer": "y"}\n',
    "not valid JSON": "{\n",
    "expected an object": "[1]\n",
    "expected a text": {**GONE, "question": 5},
    "is the id of line 14": GONE | {"id": "14"},
}


def test_all_wrong_lines_are_named_at_once(tmp_path, capsys):
    lines = list(WRONG.values())
    lines.insert(13, GONE)
    path = written(tmp_path / "bad.jsonl", *lines)
    assert vidtune(["evaluate", "gpt", "--benchmark", str(path), "--out", str(tmp_path / "out")]) == 2
    assert vidtune(["benchmarks", "check", str(path)]) == 2
    named_lines = capsys.readouterr().err.partition("none is asked before:\n")[2].splitlines()
    for number, what in enumerate(WRONG, start=1):
        place = number if number < 14 else number + 1
        (line,) = [one for one in named_lines if f"line {place}," in one or f"line {place}:" in one]
        assert what in line, (what, line)
    with pytest.raises(UserError, match="a test set of one's own is a file of JSON lines"):
        benchmark_named(str(written(tmp_path / "mine.json", [])))
    outside = written(tmp_path / "out.jsonl", {**GONE, "video": "../x.mp4"})
    with pytest.raises(UserError, match="leaves the folder"):
        benchmark_named(str(outside)).load(tmp_path)
    too_long = benchmark_named(str(written(tmp_path / "long.jsonl", {**GONE, "video": "x" * 5000}))).load(tmp_path)
    assert too_long.questions[0].missing  # a file of this name cannot be there


def test_one_file_may_ask_about_videos_and_pictures(mine, tmp_path, capsys):
    touch(mine.parent / "p.jpg")
    picture = {"id": "p", "image": "p.jpg", "question": "What is there?", "answer": "a cup"}
    lost = {"id": "lost", "image": "v/lost.png", "question": "Where?", "answer": "at sea"}
    written(mine, picture, OPEN, CHOICE, {**picture, "id": "p2", "options": ["a cup", "a hat"]}, lost)
    engine, folder = asked(mine, tmp_path, {0: "A cup.", 1: "nobody", 2: "B", 3: "B"})
    about = [(request.media[0].stream, Path(request.media[0].path).name) for request in engine.asked]
    assert about == [("image", "p.jpg"), ("image", "p.jpg"), ("video", "a.mp4"), ("video", "a.mp4")]
    assert engine.asked[0].question == "<image>\nWhat is there?" and engine.asked[2].question == "<video>\nWho?"
    assert score_run(folder, progress=False).accuracy == 0.5
    (missing,) = RunFolder(folder).missing()
    assert (missing["id"], missing["reason"], medium_of_run(RunFolder(folder).info.protocol)) == (
        "lost",
        "no file",
        "file",
    )
    log = written(tmp_path / "gpt.jsonl", *({"id": one, "answer": "A"} for one in ("p", 3, "q1", "p2")))
    assert vidtune(["judge", str(log), "--benchmark", str(mine)]) == 0
    compared = compare_runs(folder, tmp_path / "gpt-mine")
    assert (compared.agreement.only_first, compared.agreement.only_second) == (2, 1)
    assert vidtune(["report", str(folder), str(tmp_path / "gpt-mine"), "--out", str(tmp_path / "page.html")]) == 0
    assert vidtune(["export", str(folder), "--to", "inspect", "--out", str(tmp_path / "logs")]) == 0
    assert "on 3 files" in (tmp_path / "page.html").read_text()
    capsys.readouterr()
    assert vidtune(["benchmarks", "check", str(mine)]) == 0
    assert "5 questions about 3 files" in capsys.readouterr().out


def test_the_protocol_of_a_file_about_both_holds_how_pictures_are_read_and_asked(mine):
    touch(mine.parent / "p.jpg")
    written(mine, {"image": "p.jpg", "question": "What is there?", "answer": "a cup"}, OPEN)
    mixed = benchmark_named(str(mine))
    prompt = SYSTEMS["videochat_flash"].dialect.prompts["qwen_2_chat"]  # writes questions about videos in its own way
    assert _templates(prompt, mixed.stream, mixed.other_streams) == {
        "question_template": "{media}{question}",
        "stream_templates": {"image": "{media}\n{question}"},
    }
    protocol, _ = protocol_by_frames(mixed, "", {"given": "video"})
    assert (protocol.stream, protocol.question_media) == ("video", {"image": {}})
    folder = mine.parent / "features"
    written(folder / "v" / "a.npy", "")
    video, picture = sorted(
        mixed.with_features(mixed.load(mine.parent), {"video": folder}, mixed.stream).questions,
        key=lambda one: one.video,
        reverse=True,
    )
    assert (picture.stream, picture.features, picture.missing) == ("image", (), False)
    assert video.features and video.stream is None
    written(mine, {"image": "p.jpg", "caption": "a cup"}, {"video": "v/a.mp4", "caption": "a man"})
    with pytest.raises(UserError, match=r"line 2, id '2': is a pair with a video, line 1 with an image; write a file"):
        benchmark_named(str(mine))


def test_messages_about_a_run_name_its_medium(tmp_path):
    file = tmp_path / "pictures.jsonl"
    file.write_text(json.dumps({"image": "a.png", "question": "What?", "answer": "a cup"}))
    assert medium_of_run(benchmark_named(str(file)).protocol(prompt_format="plain")) == "picture"


def test_letters_and_texts_are_read_in_answers():
    options = ("a cup", "the sea", "two men")
    readings = {"c": "C", "(B).": "B", "The sea.": "B", "It is A": "A", "Answer: (C) two men": "C", "none": None}
    assert {text: named(text, options) for text in readings} == readings
    assert is_same_text("The  Cup!", "a cup") and is_same_text("1.50", "1.50") and not is_same_text("1.5", "15")
    assert is_same_text("?", "?") and not is_same_text("?", "!") and not is_same_text("-3", "3")
