"""Answers written by published scripts become runs that are scored like ours."""

import json

import pytest
from event_sets import event_run, write_events
from qa_sets import counted_set, stub_run, write_set

from vidtune.cli.main import run as vidtune
from vidtune.errors import UserError
from vidtune.evaluation.runs.official_log import import_log
from vidtune.evaluation.scores.comparison import compare_runs
from vidtune.evaluation.scores.scoring import score_run

REPLIES = {"v1/grounding/0": "From 10 to 20.", "v1/seg_captioning/1": "He talks to a man."}


@pytest.fixture
def data(tmp_path):
    return write_events(tmp_path / "set")


@pytest.fixture
def ours(data, tmp_path):
    return event_run(data, tmp_path / "ours", replies=REPLIES).run_dir


def test_our_own_log_scores_the_same_as_the_run_it_came_from(data, ours, tmp_path):
    run = import_log(ours / "log.jsonl", "world_events", data, tmp_path / "imported")
    assert score_run(run.path).groups == score_run(ours).groups
    assert all(one.official.value == 0 for one in compare_runs(ours, run.path).differences if one.official)


def test_judged_answers_are_imported_too(tmp_path):
    data = counted_set(tmp_path / "qa", 6)
    ours = stub_run(data, tmp_path / "run").run_dir
    run = import_log(ours / "merge.jsonl", "world_qa", data, tmp_path / "imported")
    assert score_run(run.path).overall == score_run(ours).overall


def test_the_last_of_several_answers_counts_and_missing_ones_lower_the_strict_value(data, ours, tmp_path):
    log = tmp_path / "log.jsonl"
    lines = (ours / "log.jsonl").read_text().splitlines(keepends=True)
    better = json.dumps({**json.loads(lines[1]), "answer": "From 00 to 20."}) + "\n"
    log.write_text("".join([*lines[:8], better]))
    score = score_run(import_log(log, "world_events", data, tmp_path / "run").path)
    task = score.group("grounding")
    assert (task.scored, task.unanswered) == (3, 3)
    assert any("not asked yet: the log holds no answer to it" in line for line in score.reasons)
    # The published scorer of grounding counts every line: 3 of 4 reach 0.7. The strict value counts the last answers.
    assert task.value("R1@0.7").official.value == 75 and task.value("R1@0.7").strict.value == 50


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"video_id": "v9", "task": "captioning", "answer": "x"}', "line 1: 'v9/captioning' is no question of"),
        ('{"video_id": "v1", "task": "grounding", "answer": "x"}', "line 1: has no 'info'"),
        ('{"video_id": "v1", "task": "grounding", "answer": "x", "info": 3}', "line 1: is not of that form"),
        ("[1]", "entry 1: not valid JSON .expected an object"),
        ("", "holds no answer"),
        ("[]", "holds no answer"),
        (
            '{"video_id": "v1", "task": "captioning", "answer": "x"}\n{"video_id": "v1", "ta',
            "line 2, .*is the line cut off",
        ),
        ('[{"video_id": "v1", "task": "captioning", "answer": "x"},\n {"video_id"', "line 3, .*is the list cut off"),
        ('{"video_id": "v1", "task": "captioning", "answer": "x", "answer": "y"}', "the key 'answer' stands twice"),
        ('{"video_id": "v1", "task": "captioning", "answer": ["x"]}', "line 1: the answer is ..x.., expected a text"),
        ('{"video_id": "v1", "task": "captioning", "answer": true}', "line 1: the answer is true, expected a text"),
    ],
)
def test_a_line_that_is_no_answer_is_named(data, tmp_path, line, message):
    (tmp_path / "log.jsonl").write_text(line + "\n" if line else "")
    with pytest.raises(UserError, match=message):
        import_log(tmp_path / "log.jsonl", "world_events", data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_changed_log_is_another_run(data, ours, tmp_path):
    import_log(ours / "log.jsonl", "world_events", data, tmp_path / "run")
    import_log(ours / "log.jsonl", "world_events", data, tmp_path / "run")
    shorter = (ours / "log.jsonl").read_text().splitlines(keepends=True)[:3]
    (tmp_path / "short.jsonl").write_text("".join(shorter))
    with pytest.raises(UserError, match="results of another run"):
        import_log(tmp_path / "short.jsonl", "world_events", data, tmp_path / "run")


def test_the_command_scores_a_log_and_measures_a_run_again(data, ours, tmp_path, capsys):
    log = tmp_path / "published.jsonl"
    log.write_bytes((ours / "log.jsonl").read_bytes())
    assert vidtune(["judge", str(log)]) == 2
    assert "needs --benchmark and --data" in capsys.readouterr().err
    assert vidtune(["judge", str(log), "--benchmark", "world_events", "--data", str(data)]) == 0
    first = capsys.readouterr().out
    assert "15 of 15 questions answered" in first and "mIoU" in first
    assert vidtune(["judge", str(tmp_path / "published-world_events")]) == 0
    assert capsys.readouterr().out.splitlines() == first.splitlines()[1:]


def log_of(lines, form):
    """The records as a file, in one of the forms in which logs are written."""
    if form == "list on one line":
        return json.dumps(lines)
    if form == "printed list":
        return json.dumps(lines, indent=2)
    if form == "Python literals":
        return "\n".join(map(str, lines))
    text = [json.dumps(line) for line in lines]
    end = "\r\n" if form == "Windows" else "\n"
    return (
        {"byte order mark": "\ufeff"}.get(form, "") + end.join(text) + ("" if form == "no last line end" else end * 2)
    )


FORMS = ["list on one line", "printed list", "Python literals", "Windows", "byte order mark", "no last line end"]


@pytest.mark.parametrize("form", FORMS)
def test_every_line_counts_in_whatever_form_a_log_is_written(form, tmp_path):
    data = counted_set(tmp_path / "qa", 3)
    lines = [
        {"id": f"clip0_{n}", "question": f"question {n}?", "answer": f"answer {n}", "pred": f"answer {n if n else 9}"}
        for n in range(3)
    ]
    (tmp_path / "log.json").write_bytes(log_of(lines, form).encode())
    score = score_run(import_log(tmp_path / "log.json", "world_qa", data, tmp_path / "run").path)
    assert (score.overall.yes, score.overall.no, score.overall.unanswered) == (2, 1, 0)


def test_names_of_keys_in_published_scripts_are_known(tmp_path):
    data = counted_set(tmp_path / "qa", 2)
    (tmp_path / "log.jsonl").write_text(
        '{"question_id": "clip0_0", "prompt": "<image>\\nquestion 0?", "text": "answer 0"}\n'
        '{"id": "clip0_1", "prediction": "answer 1"}'
    )
    score = score_run(import_log(tmp_path / "log.jsonl", "world_qa", data, tmp_path / "run").path)
    assert score.overall.yes == 2


@pytest.mark.parametrize("answer", ["null", "NaN"])
def test_no_answer_is_a_failed_question_and_never_right(answer, tmp_path):
    data = write_set(tmp_path / "qa", [("a", "how many?", "0"), ("a", "who?", "None"), ("a", "what?", "nan")])
    lines = "".join(f'{{"id": "a_{n}", "pred": {answer}}}\n' for n in range(3)) + '{"id": "a_0", "pred": ""}\n'
    (tmp_path / "log.jsonl").write_text(lines)
    score = score_run(import_log(tmp_path / "log.jsonl", "world_qa", data, tmp_path / "run").path)
    assert (score.overall.yes, score.overall.errors, score.overall.empty) == (0, 2, 1)
    assert "2 failed: the log holds no text as its answer (a_1, a_2)" in str(score)


def test_numbers_are_answers(tmp_path):
    data = write_set(tmp_path / "qa", [("a", "how many?", "0")])
    (tmp_path / "log.jsonl").write_text('{"id": "a_0", "pred": 0}')
    assert score_run(import_log(tmp_path / "log.jsonl", "world_qa", data, tmp_path / "run").path).overall.yes == 1


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ("Question 1", True),
        ("<video>\nquestion 1?\nAnswer in one word.", True),
        ("question 2?", False),
        ("what is it?", False),
    ],
)
def test_a_log_that_asks_something_else_is_refused(asked, fits, tmp_path):
    data = counted_set(tmp_path / "qa", 3)
    (tmp_path / "log.jsonl").write_text(json.dumps({"id": "clip0_1", "question": asked, "pred": "x"}))
    if fits:
        import_log(tmp_path / "log.jsonl", "world_qa", data, tmp_path / "run")
        return
    with pytest.raises(UserError, match=r"line 1: 'clip0_1' asks .*, but in the test set 'question 1\?'"):
        import_log(tmp_path / "log.jsonl", "world_qa", data, tmp_path / "run")


def test_questions_that_share_an_id_get_their_own_answers(tmp_path):
    data = counted_set(tmp_path / "qa", 3)
    questions = json.loads((data / "test_q.json").read_text())
    (data / "test_q.json").write_text(json.dumps([{**one, "question_id": "same"} for one in questions]))
    texts = [{"id": "same", "question": f"question {n}?", "pred": f"answer {n}"} for n in (2, 0, 1)]
    in_order = [{"id": "same", "pred": f"answer {n}"} for n in range(3)]
    for name, lines in (("texts", texts), ("order", in_order)):
        (tmp_path / f"{name}.json").write_text(json.dumps(lines))
        run = import_log(tmp_path / f"{name}.json", "world_qa", data, tmp_path / name)
        assert {one.index: one.pred for one in run.predictions()} == {n: f"answer {n}" for n in range(3)}
        assert run.import_notes() == []


def test_a_log_appended_twice_counts_as_the_published_scorers_count(data, ours, tmp_path, capsys):
    first = [json.loads(line) for line in (ours / "log.jsonl").read_text().splitlines()]
    better = [{**line, "answer": "From 00 to 20."} if line["task"] == "grounding" else line for line in first]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*first, *better]))
    run = import_log(tmp_path / "log.jsonl", "world_events", data, tmp_path / "run")
    once = [
        score_run(ours),
        score_run(import_log(_written(better, tmp_path), "world_events", data, tmp_path / "b").path),
    ]
    values = [score.value("mIoU", "grounding").official.value for score in once]
    score = score_run(run.path)
    assert values[0] != values[1]
    assert score.value("mIoU", "grounding").official.value == pytest.approx(sum(values) / 2)
    assert score.value("mIoU", "grounding").strict.value == pytest.approx(values[1])
    assert score.group("seg_captioning") == once[1].group("seg_captioning")
    assert [note.split(" ")[0] for note in run.import_notes()] == ["6", "9"]
    assert vidtune(["judge", str(tmp_path / "log.jsonl"), "--benchmark", "world_events", "--data", str(data)]) == 0
    assert "6 lines answer a question again: each counts in the official value of grounding" in capsys.readouterr().out


def _written(lines, folder):
    (folder / "better.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "better.jsonl"


def test_grounding_of_other_queries_than_the_first_is_left_out(data, tmp_path):
    line = {"video_id": "v1", "task": "grounding", "info": {"sentence_id": 0}}
    lines = [{**line, "query_id": 0, "answer": "From 00 to 20."}, {**line, "query_id": 1, "answer": "From 80 to 90."}]
    run = import_log(_written(lines, tmp_path), "world_events", data, tmp_path / "run")
    assert score_run(run.path).value("mIoU", "grounding").official.value == 100
    assert run.import_notes() == ["1 lines have another query_id than 0: the published scorer leaves them out"]


def test_another_reference_in_the_log_is_said_and_does_not_count(tmp_path):
    data = counted_set(tmp_path / "qa", 2)
    lines = [{"id": f"clip0_{n}", "answer": "answer 0", "pred": "answer 0"} for n in range(2)]
    run = import_log(_written(lines, tmp_path), "world_qa", data, tmp_path / "run")
    assert run.import_notes() == ["1 lines name another reference answer than the test set, whose answer counts"]
    assert score_run(run.path).overall.yes == 1


ASKED = [("a", "what is it?", "cat"), ("a", "is it red?", "yes"), ("b", "is it red?", "no"), ("c", "how many?", "0")]


def judged(tmp_path, lines, ids=(0, 1, 2, 3), asked=ASKED):
    """Import a log of a small test set; ``lines``: its text, or its records."""
    data = write_set(tmp_path / "qa", asked)
    questions = json.loads((data / "test_q.json").read_text())
    named = [{**one, "question_id": own} for one, own in zip(questions, ids, strict=True)]
    (data / "test_q.json").write_text(json.dumps(named))
    text = lines if isinstance(lines, str) else "\n".join(map(json.dumps, lines))
    (tmp_path / "log.jsonl").write_text(text)
    return import_log(tmp_path / "log.jsonl", "world_qa", data, tmp_path / "run")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": 0, "question_id": 3, "pred": "x"}, "names two questions, '0' and '3'"),
        ({"question_id": 0, "prompt": "Where is the dog?", "text": "x"}, "'0' asks 'Where is the dog"),
        ({"id": 0, "q": "how many?", "pred": "x"}, "'0' asks 'how many"),
        ({"id": 0, "Question": "how many?", "pred": "x"}, "'0' asks 'how many"),
        ({"id": 0, "video_name": "b", "pred": "x"}, "'0' is about the video 'b', but in the test set about 'a'"),
        ({"id": 1, "question": "Is it reddish or blue?", "pred": "x"}, "'1' asks"),
        ({"id": 1, "question": "is it red or blue?", "pred": "x"}, "'1' asks"),
        ({"id": 1, "question": "why is it red?", "pred": "x"}, "'1' asks"),
        ({"id": 0, "pred": "cat", "prediction": "dog"}, "'pred' and 'prediction' hold different answers"),
        ("{'id': 0, 'pred': 'dog', 'pred': 'cat'}", "line 1: not valid JSON .the key 'pred' stands twice"),
        ('{\n"id": 0,\n"pred": "a",\n"pred": "b"}', "log.jsonl: not valid JSON .the key 'pred' stands twice"),
        ('{"id": 0, "pred": ' + "1" * 5000 + "}", "line 1: not valid JSON .an integer of 5000 digits"),
        ("{'id': 0, 'pred': {1, 2}}", "line 1: the answer is {1, 2}, expected a text"),
    ],
)
def test_a_record_that_contradicts_itself_or_the_test_set_is_refused(line, message, tmp_path):
    with pytest.raises(UserError, match=message):
        judged(tmp_path, line if isinstance(line, str) else [line])


@pytest.mark.parametrize(
    ("line", "index"),
    [
        ({"id": 12, "question_id": 3, "pred": "x"}, 3),
        ({"id": 0, "question_id": 3, "question": "how many?", "pred": "x"}, 3),
        ({"id": 0, "question_id": 3, "video": "/data/c.mkv", "pred": "x"}, 3),
        ({"id": 0, "prompt": "USER: <video>\nWhat is it? ASSISTANT:", "prediction": "x"}, 0),
        ({"id": 1, "prompt": "<video> is it red Answer in one word.", "video_name": "a.mp4", "pred": "x"}, 1),
        ({"id": 0, "pred": None, "text": "x"}, 0),
        ({"id": 0, "pred": "x", "text": "x"}, 0),
    ],
)
def test_what_names_a_question_without_doubt_is_taken(line, index, tmp_path):
    assert [(one.index, one.pred) for one in judged(tmp_path, [line]).predictions()] == [(index, "x")]


@pytest.mark.parametrize("more", [{"query": "a cat sleeps"}, {"sentence": "A cat sleeps."}, {"prompt": "Find a cat."}])
def test_a_measured_log_about_other_events_is_refused(more, data, tmp_path):
    line = {"video_id": "v1", "task": "grounding", "answer": "x", "info": {"sentence_id": 0, **more}}
    with pytest.raises(UserError, match=r"line 1: 'v1/grounding/0' .* in the test set"):
        import_log(_written([line], tmp_path), "world_events", data, tmp_path / "run")


def test_the_video_tells_questions_apart_that_share_id_and_text(tmp_path):
    lines = [{"id": 7, "video": f"{video}.mp4", "question": "is it red?", "pred": video} for video in "ba"]
    found = judged(tmp_path, lines, ids=(0, 7, 7, 3)).predictions()
    assert [(one.video, one.pred) for one in found] == [("b", "b"), ("a", "a")]  # in the order of the lines


def test_lines_that_lack_one_of_several_questions_of_an_id_are_refused(tmp_path):
    with pytest.raises(UserError, match="1 lines for the 2 questions that have the id '7'; name the video"):
        judged(tmp_path / "one", [{"id": 7, "pred": "x"}], ids=(0, 7, 7, 3))
    alike = [("a", "what is it?", "cat")] * 2
    assert judged(tmp_path / "two", [{"id": 7, "pred": "x"}], ids=(7, 7), asked=alike).predictions()


@pytest.mark.parametrize("more", ['"pred": 1e999', '"pred": -Infinity', '"pred": "0", "error": true', '"pred": NaN'])
def test_infinities_and_errors_are_failed_questions(more, tmp_path):
    score = score_run(judged(tmp_path, '{"id": 3, %s}\n{"id": 0, "pred": "cat"}' % more).path)  # noqa: UP031
    assert (score.overall.yes, score.overall.errors) == (1, 1)


def test_a_line_without_an_answer_replaces_none(data, tmp_path):
    line = {"video_id": "v1", "task": "grounding", "info": {"sentence_id": 0}}
    lines = [{**line, "answer": "From 00 to 20."}, {**line, "answer": None}]
    run = import_log(_written(lines, tmp_path), "world_events", data, tmp_path / "run")
    group = score_run(run.path).group("grounding")
    assert (group.scored, group.value("mIoU").official.value) == (1, 100)
    assert run.import_notes() == ["1 lines hold no answer to a question that another line answers or that fails again"]


def test_a_log_of_left_out_lines_alone_says_so(data, tmp_path):
    line = {"video_id": "v1", "task": "grounding", "info": {"sentence_id": 0}, "query_id": None, "answer": "x"}
    with pytest.raises(UserError, match="holds no answer; 1 lines have another query_id than 0"):
        import_log(_written([line], tmp_path), "world_events", data, tmp_path / "run")
