"""Judging stored predictions by chat models, over HTTP: what counts, what is said, and what is asked again."""

from types import SimpleNamespace

import pytest
from judge_server import Reply, judge_server
from qa_sets import counted_set, records, stub_run

from vidtune.cli.main import run as vidtune
from vidtune.evaluation.scores.score_file import read_score


@pytest.fixture
def run_of_12(tmp_path):
    return stub_run(counted_set(tmp_path / "set", 12), tmp_path / "run").run_dir


def number_of(body) -> int:
    """The n of "question n?" that a request is about."""
    return int(str(body).partition("Question: question ")[2].partition("?")[0])


def words(run, server, *more) -> list[str]:
    return ["judge", str(run), "--judge", "chat", "--judge-url", server.url, "--judge-failures", "0", *more]


WILD = [
    "{'pred': 'yes', 'score': 4}",
    '```json\n{"pred": "yes", "score": 5}\n```',
    "<think>{'pred': 'no', 'score': 0}?</think> {'pred': 'yes', 'score': 4}",
    "```\n{'pred': 'no', 'score': 1}\n```",
    "{'pred': 'yes', 'score': 9}",
    "```\n{'pred': 'yes', 'score': 9}\n```",
]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("vidtune.evaluation.judges.pace.random", SimpleNamespace(uniform=lambda low, high: 0.0))


def test_a_lenient_judge_reads_stored_replies_and_its_score_says_so(run_of_12, capsys):
    with judge_server(lambda body, earlier: Reply(content=WILD[number_of(body) % 6])) as server:
        assert vidtune(words(run_of_12, server)) == 0
        asked = len(server.requests)
        strict = capsys.readouterr().out
        assert vidtune(words(run_of_12, server, "--replies", "lenient")) == 0
        assert len(server.requests) == asked + 4  # those outside the scale, which no reading makes a verdict
        lenient = capsys.readouterr().out
        assert vidtune(words(run_of_12, server)) == 0  # the strict judge keeps its own reading
    assert "2 of 2 right" in strict and "2 scored outside the scale, 8 judge failed" in strict
    assert "leniently" not in strict
    assert "6 of 8 right" in lenient and "4 scored outside the scale" in lenient
    assert "average score  3.50" in lenient  # no 9 in it
    assert "6 verdicts read leniently: a code fence 4, reasoning before it 2 (clip" in lenient
    names = sorted(path.stem for path in (run_of_12 / "scores").glob("chat-*.json"))
    assert names[1] == f"{names[0]}-lenient"
    scores = [read_score(run_of_12, name) for name in names]
    assert [score.overall.lenient for score in scores] == [0, 6]
    assert scores[0].identity == {k: v for k, v in scores[1].identity.items() if k != "replies"}
    assert scores[1].identity["replies"] == "lenient"
    kept = {line["id"]: line.get("lenient") for line in records(run_of_12 / "judgements" / f"{names[1]}.jsonl")}
    assert kept["clip2_2"] == ["reasoning before it", "text around it"] or kept["clip2_2"] == ["reasoning before it"]
    assert kept["clip0_0"] is None


def test_an_offline_judge_has_no_replies_to_read(run_of_12, capsys):
    assert vidtune(["judge", str(run_of_12), "--replies", "lenient"]) == 2
    assert "'rules' gives no replies to read" in capsys.readouterr().err
    assert vidtune(["judge", str(run_of_12), "--judge", "chat", "--replies", "odd"]) == 2
    assert "--replies" in capsys.readouterr().err
