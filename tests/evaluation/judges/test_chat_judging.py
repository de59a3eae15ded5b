"""Judging stored predictions by chat models, over HTTP: what counts, what is said, and what is asked again."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from judge_server import Reply, judge_server
from qa_sets import counted_set, records, stub_run

from vidtune.cli.main import run as vidtune
from vidtune.evaluation.judges.base import is_name_of
from vidtune.evaluation.judges.limits import Prices
from vidtune.evaluation.judges.prices.table import prices_of
from vidtune.evaluation.scores.judge_agreement import _point_kappa
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


STREAM = b'data: {"choices": [{"delta": {"content": "yes"}}]}\n\ndata: [DONE]\n\n'
ODD = [
    Reply(body=STREAM, headers={"content-type": "text/event-stream"}),
    Reply(body=b'{"choices": [{"message": {"content": 5}}]}'),
    Reply(body=b'{"choices": {"message": {"content": "yes"}}}'),
    Reply(body=b'{"choices": [{"message": {"content": "{\'pred\': \'yes\', \'score\': 5}"}}]}'),  # without usage
]


@pytest.mark.parametrize("odd", range(4))
def test_an_odd_endpoint_leaves_answers_unjudged_and_the_run_goes_on(run_of_12, capsys, odd):
    with judge_server(lambda body, earlier: ODD[odd] if number_of(body) else Reply()) as server:
        assert vidtune([*words(run_of_12, server), "--judge-failures", "2"]) == 0
        assert len(server.requests) == 12  # none is asked twice
    shown = capsys.readouterr().out
    assert ("12 of 12 right" if odd == 3 else "1 of 1 right") in shown
    assert ("11 replies, not counted there" if odd == 3 else "11 judge failed: unreadable reply: ") in shown


def test_replies_that_only_a_lenient_reader_understands_are_said_with_how_to_read_them(run_of_12, capsys):
    fenced = Reply(content='```json\n{"pred": "yes", "score": 5}\n```')
    with judge_server(lambda body, earlier: fenced) as server:
        assert vidtune([*words(run_of_12, server), "--judge-failures", "2"]) == 2
        assert "(--judge-failures allows more; --replies lenient reads more)" in capsys.readouterr().err
        assert vidtune([*words(run_of_12, server), "--replies", "lenient"]) == 0
    assert "12 of 12 right" in capsys.readouterr().out


@pytest.mark.parametrize("body", [b"<html>oops</html>", b'{"error": "busy"}', b'{"choices": [{"message": {}}]}'])
def test_a_lenient_reader_is_not_named_where_no_reply_came(run_of_12, capsys, body):
    with judge_server(lambda asked, earlier: Reply(body=body)) as server:
        assert vidtune([*words(run_of_12, server), "--judge-failures", "2"]) == 2
    assert "(--judge-failures allows more)" in capsys.readouterr().err


def test_an_endpoint_that_only_streams_is_asked_once_about_each_answer_and_said_in_one_line(run_of_12, capsys):
    with judge_server(lambda body, earlier: ODD[0]) as server:
        assert vidtune([*words(run_of_12, server), "--judge-failures", "2"]) == 2
        assert len(server.requests) == 12
    assert capsys.readouterr().err.count("\n") == 1


def priced(
    tmp_path, server, text="- {model: chat, input: 0, output: 1.0e+5, currency: EUR, source: mine}"
) -> list[str]:
    table = tmp_path / "prices.yaml"
    table.write_text(text)
    return ["--prices", str(table), "--judge-concurrency", "2"]


def test_a_budget_ends_the_judging_before_it_is_passed_and_a_larger_one_goes_on(run_of_12, tmp_path, capsys):
    with judge_server(lambda body, earlier: Reply()) as server:
        asked = words(run_of_12, server, *priced(tmp_path, server))
        assert vidtune([*asked, "--budget", "4.5"]) == 2
        assert len(server.requests) == 4
        shown = capsys.readouterr()
        assert "cost 24.00 EUR (0 and 100000 per million, mine)" in shown.out and "cost 4.00 EUR, 0" in shown.out
        assert shown.err.count("\n") == 1 and "limit (cost 4.00 EUR of 4.50 EUR)" in shown.err
        assert vidtune([*asked, "--budget", "4.5"]) == 2  # what earlier sessions cost counts
        assert len(server.requests) == 4
        capsys.readouterr()
        assert vidtune([*asked, "--budget", "50"]) == 0
        assert len(server.requests) == 12
    assert "12 of 12 right" in (shown := capsys.readouterr().out) and "cost so far 12.00 EUR" in shown
    lines = records(run_of_12 / "usage.jsonl")
    assert sum(line["cost"] for line in lines) == 12 and {line["currency"] for line in lines} == {"EUR"}
    assert all(line["judge"].startswith("chat-") for line in lines)


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("- {model: other, input: 1, output: 1}", ["--budget", "1"], "no table says what 'chat' costs here"),
        ("- {model: chat, input: 1, output: 1, url: http://else/v1}", ["--budget", "1"], "no table says what"),
        ("- {model: chat, input: -1, output: 1}", [], "prices.yaml: entry 1: input: "),
        ("- {model: chat, prompt: 1}", [], "prices.yaml: entry 1: "),
        ("model: chat", [], "prices.yaml: expected a list of prices"),
        ("[", [], "not valid YAML"),
    ],
)
def test_a_wrong_price_table_is_one_line(run_of_12, tmp_path, capsys, text, more, said):
    with judge_server(lambda body, earlier: Reply()) as server:
        assert vidtune([*words(run_of_12, server), *priced(tmp_path, server, text), *more]) == 2
        assert server.requests == []
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_shipped_prices_are_those_of_their_endpoint_and_a_table_of_the_user_wins(tmp_path):
    assert prices_of("gpt-4o-mini").currency == "USD" and prices_of("gpt-4o-mini").source
    assert prices_of("gpt-4o-mini", "http://localhost:1/v1") is None
    table = tmp_path / "mine.yaml"
    table.write_text("- {model: gpt-4o-mini, input: 7, output: 8, date: 2026-01-02}")
    assert prices_of("gpt-4o-mini", table=table) == Prices(7, 8, "USD", "2026-01-02")


def verdict(right, score, body, earlier) -> Reply:
    return Reply(content=str({"pred": "yes" if right(number_of(body)) else "no", "score": score(number_of(body))}))


def test_two_judges_of_one_run_are_compared(run_of_12, capsys):
    for right, score in ((lambda n: n % 2, lambda n: 4), (lambda n: n % 2 or n == 4, lambda n: 1 if n == 5 else 4)):
        with judge_server(partial(verdict, right, score)) as server:
            assert vidtune(words(run_of_12, server)) == 0
    capsys.readouterr()
    names = [path.stem for path in sorted((run_of_12 / "scores").glob("chat-*.json"))]
    names.sort(key=lambda name: read_score(run_of_12, name).overall.yes)  # 6 and 7
    assert vidtune(["compare", str(run_of_12), "--judges", *names]) == 0
    shown = capsys.readouterr().out
    assert "judged by both 12, only by A 0, only by B 0" in shown
    assert "11 of 12 alike, 0.92 [" in shown and "A wrong   B right 1, B wrong 5" in shown
    assert "differing: 2 answers" in shown and "A: wrong, 4 points; B: right, 4 points" in shown
    assert vidtune(["compare", str(run_of_12), "--judges", *names, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    kappa = found["verdicts"]["kappa"]
    assert kappa["value"] == pytest.approx((11 / 12 - 0.5) / 0.5) and kappa["low"] < kappa["value"] < kappa["high"]
    assert [one["id"] for one in found["differing"]] == ["clip0_4", "clip1_5"]
    # All scores of A are 4: what B gives in their place agrees with them no better than by chance.
    assert found["points"]["kappa"]["value"] == pytest.approx(0.0) and found["mean_points"] == [4.0, 3.75]
    assert [one["values"] for one in found["differences"]] == [[0.5, pytest.approx(7 / 12)], [4.0, 3.75]]
    page = run_of_12.parent / "report.html"
    assert vidtune(["report", str(run_of_12), "--judge", names[0], "--out", str(page)]) == 0
    text = page.read_text()
    card = text[text.index("Two judges of the same answers") : text.index("</section>")]
    assert f"<code>{names[0]}</code>, <code>{names[1]}</code>" in card and "11 <small>of 12</small>" in card
    assert f"{kappa['value']:.2f} [{kappa['low']:.2f}, {kappa['high']:.2f}]" in card
    assert "2 answers with another verdict or other points" in card
    assert "<code>clip0_4</code>" in card and "wrong, 4 points" in card


def test_a_judge_is_found_without_the_hash_in_its_name(run_of_12, capsys):
    assert vidtune(["judge", str(run_of_12)]) == 0
    with judge_server(lambda body, earlier: Reply()) as server:
        assert vidtune(words(run_of_12, server)) == 0
    capsys.readouterr()
    assert vidtune(["compare", str(run_of_12), "--judges", "rules", "chat"]) == 0
    assert f"judges A rules-v1 and B {next((run_of_12 / 'scores').glob('chat-*')).stem}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "judge", "meant"),
    [
        ("rules", "rules-v1", True),
        ("llama", "llama-a1b2c3", True),
        ("llama", "llama-a1b2c3-lenient", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("llama", "llama-3-70b-a1b2c3", False),
        ("llama", "llama-a1b2c3d", False),
        ("l.ama", "llama-a1b2c3", False),
    ],
)
def test_only_the_hash_or_the_version_of_a_judge_may_be_left_out(name, judge, meant):
    assert is_name_of(name, judge) is meant


def test_another_model_whose_name_begins_alike_is_another_judge(run_of_12, capsys):
    assert vidtune(["judge", str(run_of_12)]) == 0
    for folder, kind in (("scores", "json"), ("judgements", "jsonl")):
        stored = run_of_12 / folder / f"rules-v1.{kind}"
        (run_of_12 / folder / f"gpt-4o-mini.{kind}").write_bytes(stored.read_bytes())
    assert vidtune(["compare", str(run_of_12), "--judges", "gpt-4o", "rules-v1"]) == 2
    assert "no score by 'gpt-4o' (there: gpt-4o-mini, rules-v1)" in capsys.readouterr().err


def test_the_page_says_why_judges_are_not_compared(run_of_12):
    assert vidtune(["judge", str(run_of_12)]) == 0
    with judge_server(lambda body, earlier: Reply()) as server:
        assert vidtune(words(run_of_12, server)) == 0
    path = next((run_of_12 / "scores").glob("chat-*"))
    score = json.loads(path.read_text())
    del score["answers"]  # as earlier versions stored it: the verdicts are not read to see whether it is of now
    path.write_text(json.dumps(score))
    verdicts = run_of_12 / "judgements" / f"{path.stem}.jsonl"
    verdicts.write_text("{broken\n" + verdicts.read_text())
    page = run_of_12.parent / "report.html"
    assert vidtune(["report", str(run_of_12), "--judge", "rules-v1", "--out", str(page)]) == 0
    assert f"judges are not compared: {verdicts}: line 1, column 2: not valid JSON" in page.read_text()


def test_judges_with_no_answer_in_common_are_passed_over_on_the_page(run_of_12):
    halves = (lambda n: n < 6), (lambda n: n >= 6)
    for half in halves:
        with judge_server(lambda body, earlier, half=half: Reply() if half(number_of(body)) else ODD[0]) as server:
            assert vidtune(words(run_of_12, server)) == 0
    page = run_of_12.parent / "report.html"
    assert vidtune(["report", str(run_of_12), "--out", str(page)]) == 0
    text = page.read_text()
    assert "Two judges of the same answers" not in text and "judges are not compared" not in text


@pytest.mark.parametrize(
    ("judges", "said"), [(("rules-v1", "rules-v1"), "both 'rules-v1'"), (("rules-v1", "gpt"), "no score by 'gpt'")]
)
def test_judges_that_cannot_be_compared_are_named(run_of_12, capsys, judges, said):
    assert vidtune(["judge", str(run_of_12)]) == 0
    assert vidtune(["compare", str(run_of_12), "--judges", *judges]) == 2
    assert said in capsys.readouterr().err


def test_kappa_of_points_is_cohens_with_quadratic_weights():
    first, second = np.array([5, 4, 3, 0, 1, 5, 2]), np.array([4, 4, 1, 0, 2, 5, 5])
    weights = (np.arange(6)[:, None] - np.arange(6)) ** 2
    seen = np.zeros((6, 6))
    np.add.at(seen, (first, second), 1 / 7)
    chance = np.outer(seen.sum(1), seen.sum(0))
    rows = np.stack([np.ones(7), first == second, first, second, first**2, second**2, (first - second) ** 2], 1)
    assert _point_kappa(rows.sum(0)) == pytest.approx(1 - (weights * seen).sum() / (weights * chance).sum())
