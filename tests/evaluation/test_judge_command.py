"""``vidtune judge``: what it prints, and its exit code, when answers or verdicts are not there."""

import json

import pytest
from event_sets import event_run, write_events
from judge_server import Reply, judge_server
from qa_sets import StubEngine, counted_set, records, stub_run

from vidtune.cli.main import main
from vidtune.cli.main import run as vidtune
from vidtune.errors import UserError
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.score_file import read_current_score, read_score
from vidtune.evaluation.scores.scoring import score_run


@pytest.fixture
def qa(tmp_path):
    """(folder of a set of 50 questions, folder of the answers to it, each right)."""
    data = counted_set(tmp_path / "set", 50, per_video=5)
    return data, stub_run(data, tmp_path / "run").run_dir


@pytest.mark.parametrize(
    ("answered", "right", "official", "strict"), [(43, 22, "0.51", "0.44"), (20, 9, "0.45", "0.18")]
)
def test_strict_is_over_the_planned_questions_of_a_log(qa, tmp_path, capsys, answered, right, official, strict):
    lines = records(qa[1] / "merge.jsonl")[:answered]
    for line in lines[right:]:
        line["pred"] = "something else"
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert vidtune(["judge", str(log), "--benchmark", "world_qa", "--data", str(qa[0])]) == 0
    shown = capsys.readouterr().out
    assert f"{answered} of 50 questions answered, {50 - answered} not asked yet" in shown
    assert f"accuracy       {official} [" in shown and f"{right} of {answered} right" in shown
    assert f"not counted    {50 - answered} not asked yet; with these as wrong: {strict} [" in shown
    score = read_score(tmp_path / "log-world_qa", "rules-v1")
    assert (score.overall.questions, score.overall.unanswered, score.overall.videos) == (50, 50 - answered, 10)
    assert score.coverage == answered / 50


def test_a_dead_judge_ends_with_one_line_and_its_verdicts_stay(qa, capsys):
    def reply(body, earlier):
        return Reply() if len(server.requests) <= 3 else Reply(content="[1]")

    with judge_server(reply) as server:
        words = ["judge", str(qa[1]), "--judge", "chat", "--judge-url", server.url, "--judge-concurrency", "1"]
        assert vidtune(words) == 2
        assert len(server.requests) == 3 + 5
        shown = capsys.readouterr()
        assert (
            "3 of 3 right" in shown.out and "5 unreadable verdict, 42 not judged yet; with these as wrong" in shown.out
        )
        assert shown.err.count("\n") == 1
        assert "the last 5 requests gave no verdict: unreadable verdict: '[1]'; what is judged is kept" in shown.err
        reply_before = len(server.requests)
        assert vidtune([*words, "--judge-failures", "0"]) == 0
        assert len(server.requests) == reply_before + 47
    capsys.readouterr()


EVIL = "a\x1b]0;owned\x07b\x1b[2J\x9bc\rd\nerror: forged\u2028e\u202egpj"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=400, body=json.dumps({"error": {"message": EVIL, "code": EVIL}}).encode()),
        Reply(status=401, body=json.dumps({"error": {"message": EVIL}}).encode()),
        Reply(content=f'["""{EVIL.replace(chr(13), "")}"""]'),  # is no verdict
    ],
    ids=["refused", "key", "verdict"],
)
def test_what_a_judge_sends_is_shown_and_not_obeyed(tmp_path, capsys, reply):
    run = stub_run(counted_set(tmp_path / "set", 6), tmp_path / "run").run_dir
    with judge_server(lambda body, earlier: reply) as server, pytest.raises(SystemExit) as left:
        main(["judge", str(run), "--judge", "chat", "--judge-url", server.url, "--judge-concurrency", "1"])
    shown = capsys.readouterr()
    assert left.value.code == 2 and "owned" in shown.err
    assert not {*"\x1b\x07\x9b\r\u2028\u202e"} & {*shown.out, *shown.err}
    assert len([line for line in shown.err.splitlines() if line.startswith("error: ")]) == 1


def test_a_reason_that_quotes_a_file_stays_in_its_line_of_the_score(tmp_path, capsys):
    data = counted_set(tmp_path / "set", 6)
    run = stub_run(data, tmp_path / "run", StubEngine(errors={"clip0": EVIL})).run_dir
    assert vidtune(["judge", str(run)]) == 0
    shown = capsys.readouterr()
    assert "forged" in shown.out and not {*"\x1b\x07\x9b\r\u2028\u202e"} & {*shown.out}
    assert not [line for line in shown.out.splitlines() if line.startswith("error: ")]


def test_a_run_without_any_verdict_is_no_success(qa, capsys):
    said = {"choices": [{"message": {"content": "None"}}]}
    with judge_server(lambda body, earlier: Reply(body=json.dumps(said).encode())) as server:
        words = ["judge", str(qa[1]), "--judge", "chat", "--judge-url", server.url, "--judge-failures", "0"]
        assert vidtune(words) == 2
    shown = capsys.readouterr()
    assert "no accuracy: nothing was judged" in shown.out
    assert "judged: 50 requests, 0 tokens (without those of 50 replies, not counted there), 0 replies" in shown.out
    assert "nothing was scored: 50 unreadable verdict: the reply holds no score that can be read (clip" in shown.err


def test_a_run_without_any_answer_is_no_success_and_the_next_run_is_scored(qa, tmp_path, capsys):
    failing = stub_run(qa[0], tmp_path / "failing", StubEngine(errors={"clip": "no frames"})).run_dir
    assert vidtune(["judge", str(failing), str(qa[1])]) == 2
    shown = capsys.readouterr()
    assert "50 of 50 right" in shown.out
    assert f"{failing}: nothing was scored: 50 failed: no frames (clip0_0, clip1_1, clip2_2, ...)" in shown.err


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--judge-url", "http://[::1"], "judge address"),
        (["--judge-url", "http://host:99999"], "judge address"),
        (["--judge-prices", "nan", "1"], "--judge-prices"),
        (["--judge-prices", "1", "-1"], "--judge-prices"),
        (["--judge-prices", "1", "1", "--judge-max-cost", "nan"], "--judge-max-cost"),
        (["--judge-max-cost", "-1"], "--judge-max-cost"),
        (["--judge-max-calls", "-1"], "--judge-max-calls"),
        (["--judge-concurrency", "-3"], "--judge-concurrency"),
        (["--judge", ""], "--judge ''"),
        (["--judge", ".."], "--judge '..'"),
    ],
)
def test_an_option_that_cannot_be_meant_is_named(tmp_path, capsys, words, option):
    assert vidtune(["judge", str(tmp_path), "--judge", "chat", "--judge-url", "http://localhost:1", *words]) == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize("reply", [Reply(status=400), Reply(content="[1]")])
def test_answers_that_can_never_be_judged_do_not_end_a_later_judging(tmp_path, capsys, reply):
    run = stub_run(counted_set(tmp_path / "set", 12), tmp_path / "run").run_dir
    poison = [f"question {n}?" for n in range(0, 12, 2)]
    with judge_server(lambda body, earlier: reply if any(one in str(body) for one in poison) else Reply()) as server:
        words = ["judge", str(run), "--judge", "chat", "--judge-url", server.url, "--judge-concurrency", "1"]
        assert (vidtune(words), len(server.requests)) == (0, 12)
        assert (vidtune(words), len(server.requests)) == (0, 18)
    assert capsys.readouterr().out.count("6 of 6 right") == 2


def test_what_metrics_score_is_measured_after_a_judge_is_given_up_and_every_problem_is_said(qa, tmp_path, capsys):
    other = stub_run(qa[0], tmp_path / "other").run_dir
    measured = event_run(write_events(tmp_path / "events"), tmp_path / "measured").run_dir
    empty = stub_run(qa[0], tmp_path / "empty", StubEngine(errors={"clip": "no frames"})).run_dir
    with judge_server(lambda body, earlier: Reply(status=401)) as server:
        runs = [str(empty), str(qa[1]), str(other), str(measured)]
        assert vidtune(["judge", *runs, "--judge", "chat", "--judge-url", server.url]) == 2
        assert len(server.requests) == 1
    shown = capsys.readouterr()
    assert f"{other}: not judged, the judge was given up" in shown.out and "metrics in %" in shown.out
    errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "nothing was scored: 50 failed" in errors[0] and "HTTP 401" in errors[1]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("predictions.jsonl", "answer 7", "answer 8"), ("judgements/rules-v1.jsonl", '"yes"', '"no"')],
)
def test_a_score_of_other_answers_or_verdicts_is_no_score_of_today(tmp_path, file, old, new):
    run = RunFolder(stub_run(counted_set(tmp_path / "set", 8), tmp_path / "run").run_dir)
    assert score_run(run.path, progress=False) == read_current_score(run, "rules-v1")
    path = run.path / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match="its score by rules-v1 is of another time"):
        read_current_score(run, "rules-v1")
