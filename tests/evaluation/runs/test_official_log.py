"""Answers written by published scripts become runs that are scored like ours."""

import json

import pytest
from event_sets import event_run, write_events
from qa_sets import counted_set, stub_run

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
    task = score_run(import_log(log, "world_events", data, tmp_path / "run").path).group("grounding")
    assert (task.scored, task.unanswered) == (3, 3)
    assert task.value("R1@0.7").official.value == 100 and task.value("R1@0.7").strict.value == 50


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"video_id": "v9", "task": "captioning", "answer": "x"}', "line 1: 'v9/captioning' is no question of"),
        ('{"video_id": "v1", "task": "grounding", "answer": "x"}', "line 1: has no 'info'"),
        ('{"video_id": "v1", "task": "grounding", "answer": "x", "info": 3}', "line 1: is not of that form"),
        ("[1]", "line 1: not valid JSON .expected an object"),
        ("", "holds no answer"),
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
