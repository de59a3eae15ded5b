"""The chat-model judge against a real HTTP server that answers, fails, talks nonsense or hangs."""

import asyncio
import itertools
import json
import os
import signal
import threading
import time
from email.utils import formatdate

import pytest
from judge_server import YES, Reply, judge_server

from vidtune.errors import UserError
from vidtune.evaluation.judges.base import JudgeItem, JudgingStoppedError
from vidtune.evaluation.judges.openai_compatible import Limits, OpenAICompatibleJudge, Prices
from vidtune.evaluation.judges.prompts import JudgePrompt

QUICK = Limits(timeout=2.0, attempts=3, backoff=0.01, longest_wait=2.0)


def items(count: int) -> list[JudgeItem]:
    return [JudgeItem(str(n), f"question {n}?", "a", "b") for n in range(count)]


def judge(server, **options) -> OpenAICompatibleJudge:
    return OpenAICompatibleJudge("gpt-test", base_url=server.url, **{"limits": QUICK, **options})


def ask(chosen, questions):
    found = {}
    usage = chosen.judge(questions, lambda judgement: found.__setitem__(judgement.item.id, judgement))
    return found, usage


def test_every_item_is_judged_and_usage_is_counted():
    with judge_server(lambda body, earlier: Reply()) as server:
        found, usage = ask(judge(server, prices=Prices(1.0, 10.0)), items(5))
    assert {key: judgement.value for key, judgement in found.items()} == {
        str(n): {"pred": "yes", "score": 5} for n in range(5)
    }
    assert (usage.calls, usage.prompt_tokens, usage.completion_tokens) == (5, 500, 50)
    assert usage.cost == pytest.approx(0.001)
    assert all(set(request) == {"model", "messages"} for request in server.requests)


@pytest.mark.parametrize(
    ("user", "second", "message"),
    [
        (
            "{question}: {question2}?",
            None,
            r"prompt 'mine': 'x' has no text for \{question2\}; it has question, ",
        ),
        ("{question1}: {reply}", ("q", "p"), r"no text for \{reply\}; it has .*, pred2"),
    ],
)
def test_a_field_that_an_item_has_no_text_for_is_refused_before_anything_is_sent(user, second, message):
    chosen = OpenAICompatibleJudge("gpt-test", base_url="http://localhost:1", prompt=JudgePrompt("mine", "", user))
    with pytest.raises(UserError, match=message):
        ask(chosen, [JudgeItem("x", "what {reply}?", "a", "b", second=second)])


def test_sampling_parameters_are_sent_along():
    with judge_server(lambda body, earlier: Reply()) as server:
        ask(judge(server, parameters={"temperature": 0, "max_tokens": 30}), items(1))
    assert (server.requests[0]["temperature"], server.requests[0]["max_tokens"]) == (0, 30)


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(status=429),
        Reply(status=500),
        Reply(status=503),
        Reply(content="I would say yes."),
        Reply(content=""),
        Reply(content=None),
        Reply(body=b"<html>oops</html>", headers={"content-type": "text/html"}),
        Reply(body=b'{"broken'),
        Reply(body=b"[]"),
        Reply(body=b'{"choices": []}'),
        Reply(drop=True),
    ],
    ids=["429", "500", "503", "talk", "empty", "null", "html", "broken", "list", "no choices", "drop"],
)
def test_trouble_that_passes_is_waited_for(trouble):
    with judge_server(lambda body, earlier: trouble if earlier < 2 else Reply()) as server:
        found, usage = ask(judge(server), items(2))
    assert all(judgement.value == {"pred": "yes", "score": 5} for judgement in found.values())
    assert usage.calls == len(server.requests) == 6
    assert {judgement.attempts for judgement in found.values()} == {3}


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (Reply(status=429), "HTTP 429"),
        (Reply(status=500), "HTTP 500"),
        (Reply(content="yes"), "unreadable reply"),
        (Reply(delay=600), "no reply within 1 s"),
        (Reply(drip=True), "no reply within 1 s"),
    ],
    ids=["429", "500", "garbage", "hangs", "drips"],
)
def test_trouble_that_stays_leaves_the_item_unjudged_and_the_others_judged(trouble, reason):
    limits = Limits(timeout=1, attempts=3, backoff=0.01)
    with judge_server(lambda body, earlier: trouble if "question 1?" in str(body) else Reply()) as server:
        found, _ = ask(judge(server, limits=limits), items(4))
    assert reason in found["1"].error and found["1"].attempts == 3
    assert all(found[key].error is None for key in ("0", "2", "3"))


@pytest.mark.parametrize(
    "form", [lambda: "0.5", lambda: formatdate(time.time() + 1.6, usegmt=True)], ids=["seconds", "date"]
)
def test_the_server_says_how_long_to_wait(form):
    def reply(body, earlier):
        return Reply(status=429, headers={"retry-after": form()}) if earlier == 0 else Reply()

    with judge_server(reply) as server:
        found, _ = ask(judge(server), items(1))
    assert found["0"].error is None
    assert server.times[1] - server.times[0] > 0.45


def test_no_wait_is_longer_than_allowed():
    limits = Limits(timeout=20, attempts=2, backoff=0.01, longest_wait=0.2)
    with judge_server(lambda body, earlier: Reply(status=429, headers={"retry-after": "86400"})) as server:
        started = time.monotonic()
        found, _ = ask(judge(server, limits=limits), items(1))
    assert "HTTP 429" in found["0"].error
    assert time.monotonic() - started < 60


def test_pauses_grow():
    limits = Limits(timeout=20, attempts=4, backoff=0.1)
    with judge_server(lambda body, earlier: Reply(status=500)) as server:
        ask(judge(server, limits=limits), items(1))
    first, second, third = (b - a for a, b in zip(server.times, server.times[1:], strict=False))
    assert first > 0.04 and second > 0.09 and third > 0.19  # a busy machine makes them longer


def test_no_more_requests_are_under_way_than_allowed():
    three = threading.Event()

    def reply(body, earlier):
        if server.under_way >= 3:
            three.set()
        elif earlier == 0 and len(server.requests) > 1:  # the first may go alone
            three.wait(60)
        return Reply(delay=0.03)

    with judge_server(reply) as server:
        ask(judge(server, limits=Limits(concurrency=3, timeout=120)), items(12))
    assert server.peak == 3


def test_a_refused_item_is_not_repeated():
    with judge_server(lambda body, earlier: Reply(status=400) if "question 1?" in str(body) else Reply()) as server:
        found, usage = ask(judge(server, limits=Limits(concurrency=1)), items(3))
    assert "HTTP 400" in found["1"].error
    assert usage.calls == 3


def test_a_setting_that_is_always_refused_stops_the_run():
    with (
        judge_server(lambda body, earlier: Reply(status=400)) as server,
        pytest.raises(UserError, match="the first 5 requests were refused: HTTP 400"),
    ):
        ask(judge(server, limits=Limits(concurrency=1)), items(50))
    assert len(server.requests) == 5


def test_a_wrong_key_stops_at_once_and_is_not_shown(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    body = json.dumps({"error": {"message": "Incorrect API key provided: sk-secret"}}).encode()
    with (
        judge_server(lambda _, earlier: Reply(status=401, body=body)) as server,
        pytest.raises(UserError, match=r"HTTP 401: Incorrect API key provided: \*\*\*"),
    ):
        ask(judge(server, api_key_env="MY_KEY"), items(3))
    assert server.headers[0]["authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, {"message": "The model `m` does not exist"}),
        (400, {"message": "no", "code": "model_not_found"}),
        (400, {"message": "Model Not Exist"}),
        (400, "model 'gpt-test' not found"),
        (400, {"message": "chat: Invalid model name passed in model=m"}),
        (400, {"message": "m is not a valid model ID"}),
    ],
)
def test_an_unknown_model_stops_at_once(status, error):
    with judge_server(lambda body, earlier: Reply(status=status, body=json.dumps({"error": error}).encode())) as server:
        with pytest.raises(JudgingStoppedError, match=f"HTTP {status}"):
            ask(judge(server), items(9))
        assert len(server.requests) == 1


def test_the_key_of_one_service_is_not_sent_to_another(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    with judge_server(lambda body, earlier: Reply()) as server:
        ask(judge(server), items(1))
    assert "sk-openai" not in str(server.headers)


def test_a_missing_key_is_named(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="set the environment variable OPENAI_API_KEY"):
        ask(OpenAICompatibleJudge("gpt-test"), items(1))


def test_a_second_run_asks_nothing_twice(tmp_path):
    cache = tmp_path / "cache.jsonl"
    with judge_server(lambda body, earlier: Reply(content="{'pred': 'no', 'score': 1}")) as server:
        ask(judge(server, cache=cache), items(3))
        assert judge(server, cache=cache).estimate(items(5)).calls == 2
        found, usage = ask(judge(server, cache=cache), items(5))
        assert (len(server.requests), usage.calls, usage.cached) == (5, 2, 3)
        assert found["0"].value == {"pred": "no", "score": 1} and found["0"].attempts == 0
        ask(judge(server, cache=cache, parameters={"temperature": 0}), items(1))
        assert len(server.requests) == 6


def test_replies_without_a_verdict_are_kept_whole_but_asked_again(tmp_path):
    cache = tmp_path / "cache.jsonl"
    long = "I would say yes. " * 30
    with judge_server(lambda body, earlier: Reply(content=long if earlier < 3 else YES)) as server:
        found, _ = ask(judge(server, cache=cache), items(1))
        assert found["0"].error is not None and found["0"].reply == long
        assert [json.loads(line)["reply"] for line in cache.read_text().splitlines()] == [long] * 3
        with cache.open("ab") as file:
            file.write(b'{"key": "x", "rep')
        found, _ = ask(judge(server, cache=cache), items(1))
        assert found["0"].value == {"pred": "yes", "score": 5} and found["0"].reply == YES
        before = len(server.requests)
        ask(judge(server, cache=cache), items(1))
        assert len(server.requests) == before


def test_a_body_that_is_no_chat_completion_is_kept(tmp_path):
    with judge_server(lambda body, earlier: Reply(body=b'{"choices": []}')) as server:
        found, _ = ask(judge(server, cache=tmp_path / "cache.jsonl"), items(1))
    assert "no chat completion" in found["0"].error and found["0"].reply is None
    assert json.loads((tmp_path / "cache.jsonl").read_text().splitlines()[0])["body"] == '{"choices": []}'


def completion(content, usage=None, **message) -> Reply:
    choices = [{"message": {"role": "assistant", "content": content, **message}}]
    return Reply(body=json.dumps({"choices": choices, "usage": usage}).encode())


def counts(prompt, completion) -> dict:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


ODD_USAGE = [
    *({}, "lots", [1], 5, counts("12", "3"), counts(None, None), counts({"a": 1}, 3), counts(-5, 1), counts(True, 1)),
    *(counts(1e400, 1), counts(1.5, 1), counts(10**250, 1)),
]


def test_token_counts_that_cannot_be_read_are_unknown_and_the_verdicts_stand():
    def reply(body, earlier):
        return completion(YES, ODD_USAGE[len(server.requests) - 1])

    with judge_server(reply) as server:
        found, usage = ask(judge(server, prices=Prices(1e6, 0.0), limits=Limits(concurrency=1)), items(len(ODD_USAGE)))
    assert all(one.value == {"pred": "yes", "score": 5} for one in found.values())
    assert (usage.calls, usage.uncounted, usage.prompt_tokens, usage.cost) == (len(ODD_USAGE),) * 2 + (0, 0.0)


PARTS = [{"type": "text", "text": YES[:9]}, {"type": "text", "text": YES[9:]}]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (completion(PARTS), None),
        (completion({"pred": "yes", "score": 5}), "it holds no text"),
        (completion(5), "it holds no text (its content is int)"),
        (Reply(body=b'{"choices": {"0": {"message": {"content": "hi"}}}}'), "choices are an object"),
        (Reply(body=b'data: {"choices": []}\n\ndata: [DONE]\n\n'), "a stream of events"),
        (completion([{"type": "image"}]), "it holds no text"),
        (Reply(body=b': comment\n\ndata: {"choices": []}\n\n'), "a stream of events"),
        (Reply(body=b'{"error": {"message": "bad key sk-2"}}'), "no chat completion (bad key sk-2)"),
        (completion(None, refusal="I will not."), "the judge refuses: 'I will not.'"),
        (Reply(status=400, body=b'{"error": {"message": "key sk-1 \xff"}, "more": "sk-1"}'), "HTTP 400: key ***"),
        (Reply(status=503, body=b"<html>sk-1 busy</html>"), "HTTP 503"),
    ],
    ids=["parts", "object", "number", "choices", "stream", "image", "comment", "error", "refusal", "400", "503"],
)
def test_whatever_an_endpoint_sends_is_kept(tmp_path, monkeypatch, reply, said):
    monkeypatch.setenv("KEY", "sk-1")
    cache = tmp_path / "cache.jsonl"
    with judge_server(lambda body, earlier: reply) as server:
        found, _ = ask(judge(server, api_key_env="KEY", cache=cache, limits=Limits(attempts=1)), items(1))
    kept = json.loads(cache.read_text())
    if said is None:
        assert found["0"].value == {"pred": "yes", "score": 5} and kept["reply"] == YES
    else:
        assert said in found["0"].error and found["0"].reply is None
        assert kept["body"] == reply.payload().decode(errors="replace").replace("sk-1", "***")


@pytest.mark.parametrize("status", [200, 500])
def test_of_a_very_long_reply_only_a_part_is_kept(tmp_path, status):
    long = "x" * 300_000
    sent = Reply(content=long) if status == 200 else Reply(status=status, body=long.encode())
    cache = tmp_path / "cache.jsonl"
    with judge_server(lambda body, earlier: sent) as server:
        found, _ = ask(judge(server, cache=cache), items(1))
    assert found["0"].error is not None and found["0"].attempts == 3
    assert cache.stat().st_size < 3 * 66_000
    kept = json.loads(cache.read_text().splitlines()[0])
    assert (kept.get("reply") or kept["body"]).endswith("xxx... (300000 characters)")


@pytest.mark.parametrize("part", ["question", "answer", "prediction"])
def test_an_item_that_no_request_can_hold_is_unjudged_at_once(part):
    texts = [word + ("\ud800" if word == part else "") for word in ("question", "answer", "prediction")]
    with judge_server(lambda body, earlier: Reply()) as server:
        chosen = judge(server, limits=Limits(failures=1, max_calls=2))
        found, usage = ask(chosen, [JudgeItem("x", *texts), *items(2)])
    assert f"the {part} holds half of a character" in found["x"].error and found["x"].attempts == 0
    assert (usage.calls, usage.cached, len(server.requests)) == (2, 0, 2) and found["1"].error is None


@pytest.mark.parametrize("key", ["sk-ä", "sk-1\n", " sk-1", "sk\t1", "sk-\udcff"])
def test_a_key_that_no_request_can_carry_is_one_line_at_the_start(monkeypatch, key):
    monkeypatch.setattr(os, "environ", {**os.environ, "KEY": key})
    with judge_server(lambda body, earlier: Reply()) as server, pytest.raises(UserError) as refused:
        ask(judge(server, api_key_env="KEY"), items(3))
    assert "the API key in KEY holds what no request can carry" in str(refused.value)
    assert "sk" not in str(refused.value) and not server.requests


@pytest.mark.parametrize(
    "setting",
    [
        *({"concurrency": 0}, {"concurrency": -3}, {"attempts": 0}, {"timeout": float("nan")}, {"backoff": -1.0}),
        *({"longest_wait": float("inf")}, {"failures": 0}, {"max_calls": -1}, {"max_cost": float("nan")}),
    ],
)
def test_limits_that_are_none_are_refused(setting):
    with pytest.raises(UserError, match=rf"judge: {next(iter(setting))} is .*expected a number of at least"):
        Limits(**setting)


@pytest.mark.parametrize("prices", [(float("nan"), 1.0), (1.0, -1.0), (float("inf"), 1.0)])
def test_prices_that_are_none_are_refused(prices):
    with pytest.raises(UserError, match=r"price of .* tokens is"):
        Prices(*prices)


TROUBLES = {
    "429": Reply(status=429),
    "500": Reply(status=500),
    "refused": Reply(status=400),
    "talk": Reply(content="I would say yes."),
    "empty": Reply(content=""),
    "html": Reply(body=b"<html>oops</html>", headers={"content-type": "text/html"}),
    "drop": Reply(drop=True),
    "list": Reply(content="['yes', 4]"),
    "no score": Reply(content="{'pred': 'yes'}"),
    "outside": Reply(content="{'pred': 'yes', 'score': 1000000000}"),
}


@pytest.mark.parametrize(
    ("trouble", "working"), [*((name, 0) for name in TROUBLES), ("500", 8), ("talk", 8), ("list", 8)]
)
def test_an_endpoint_that_fails_from_some_moment_on_is_not_paid_for_every_item(trouble, working):
    limits = Limits(timeout=5, attempts=6, backoff=0.001, concurrency=3)

    numbers = itertools.count()

    def reply(body, earlier):
        return Reply() if next(numbers) < working else TROUBLES[trouble]

    with judge_server(reply) as server:
        found = {}
        with pytest.raises(JudgingStoppedError, match=f"the {'last' if working else 'first'} 5 requests"):
            judge(server, limits=limits).judge(items(working + 32), lambda one: found.__setitem__(one.item.id, one))
    # Six attempts of one item and the next one's first; or those under way together, five times in a row; or, of an
    # endpoint that replies, five items and those under way beside them, six times each.
    most = {"talk": 48}.get(trouble, 15) if working else 5 if trouble in ("429", "drop") else 7
    assert len(server.requests) - working <= most
    assert sum(one.value == {"pred": "yes", "score": 5} for one in found.values()) == working


def test_failures_between_verdicts_end_nothing():
    def reply(body, earlier):
        return Reply(content="?") if earlier < 2 else Reply()

    with judge_server(reply) as server:
        found, usage = ask(judge(server, limits=Limits(attempts=3, backoff=0.001, concurrency=1)), items(9))
    assert len(found) == 9 and all(one.error is None for one in found.values()) and usage.calls == 27


@pytest.mark.parametrize("odd", ["talk", "list", "refused"])
def test_replies_without_a_verdict_now_and_then_are_counted_and_the_judging_goes_on(odd):
    """Two items in a row, then three, then four without a verdict: what this judge does, not the end of it."""
    unread = {*(1, 2), *(4, 5, 6), *(8, 9, 10, 11)}

    def reply(body, earlier):
        number = next(n for n in range(14) if f"question {n}?" in str(body))
        return TROUBLES[odd] if number in unread else Reply()

    with judge_server(reply) as server:
        found, _ = ask(judge(server, limits=Limits(attempts=3, backoff=0.001, concurrency=1, failures=3)), items(14))
    judged = {int(key) for key, one in found.items() if one.value == {"pred": "yes", "score": 5}}
    assert judged == set(range(14)) - unread


def test_one_poisonous_item_is_given_up_and_the_others_are_judged():
    limits = Limits(attempts=8, backoff=0.001, failures=3)
    with judge_server(lambda body, earlier: Reply(status=500) if "question 0?" in str(body) else Reply()) as server:
        found, _ = ask(judge(server, limits=limits), items(4))
    assert found["0"].attempts == 8 and all(found[key].error is None for key in "123")


def test_known_replies_are_reported_in_the_order_of_the_items(tmp_path):
    with judge_server(lambda body, earlier: Reply()) as server:
        again = judge(server, cache=tmp_path / "cache.jsonl")
        ask(again, items(12))
        reported: list[str] = []
        again.judge(items(12), lambda one: reported.append(one.item.id))
    assert reported == [item.id for item in items(12)]


def test_equal_texts_are_asked_once():
    same = [JudgeItem(str(n), "what?", "cat", "dog") for n in range(4)]
    with judge_server(lambda body, earlier: Reply()) as server:
        found, usage = ask(judge(server), same)
    assert len(server.requests) == 1 and len(found) == 4
    assert (usage.calls, usage.cached) == (1, 3)


def test_cost_is_known_before_and_limits_refuse_before_asking():
    with judge_server(lambda body, earlier: Reply()) as server:
        prices = Prices(prompt=2.0, completion=6.0)
        estimate = judge(server, prices=prices).estimate(items(100))
        assert estimate.calls == 100
        assert 20_000 < estimate.prompt_tokens < 60_000
        assert estimate.cost == pytest.approx((estimate.prompt_tokens * 2 + estimate.completion_tokens * 6) / 1e6)
        with pytest.raises(UserError, match="takes 100 requests, the limit is 99"):
            ask(judge(server, limits=Limits(max_calls=99)), items(100))
        assert server.requests == []


def test_repetitions_cannot_pass_the_limit():
    with (
        judge_server(lambda body, earlier: Reply(status=500)) as server,
        pytest.raises(UserError, match=r"stopped at its limit \(4 requests\)"),
    ):
        ask(judge(server, limits=Limits(max_calls=4, attempts=10, backoff=0.01, concurrency=1)), items(2))
    assert len(server.requests) == 4


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_limit_of_cost_is_never_passed_and_what_is_under_way_is_waited_for(concurrency):
    limits = Limits(max_cost=10.5, concurrency=concurrency)
    with judge_server(lambda body, earlier: Reply(delay=0.0 if concurrency == 1 else 0.02)) as server:
        chosen = judge(server, prices=Prices(0.0, 1e5, "EUR"), limits=limits)  # 1 EUR each
        found = {}
        with pytest.raises(
            JudgingStoppedError, match=r"at its limit \(cost .* EUR of 10.50 EUR\).*--budget"
        ) as stopped:
            chosen.judge(items(50), lambda one: found.__setitem__(one.item.id, one))
        sent = len(server.requests)
        assert sent == 10 and chosen.spent == stopped.value.usage.cost == len(found) == sent
        with pytest.raises(JudgingStoppedError):  # the same judge has no more to spend
            ask(chosen, items(50)[20:])
    assert len(server.requests) == 10


def test_a_reply_without_counted_tokens_counts_in_a_limit_of_cost_by_its_length():
    with judge_server(lambda body, earlier: completion(YES)) as server:
        chosen = judge(server, prices=Prices(0.0, 1e5), limits=Limits(max_cost=10.5, concurrency=1))
        with pytest.raises(JudgingStoppedError, match="at its limit"):
            ask(chosen, items(50))  # 20 tokens each are expected, 2.00
    assert len(server.requests) == 5 and (chosen.usage.cost, chosen.usage.estimated_cost) == (0.0, 10.0)


def test_names_tell_judges_apart():
    published = OpenAICompatibleJudge("gpt-3.5-turbo")
    assert published.name == "gpt-3.5-turbo"
    others = [
        OpenAICompatibleJudge("gpt-3.5-turbo", base_url="http://localhost:1/v1"),
        OpenAICompatibleJudge("gpt-3.5-turbo", parameters={"temperature": 0}),
        OpenAICompatibleJudge("org/model:7b"),
        OpenAICompatibleJudge("org-model-7b"),
    ]
    assert len({other.name for other in [published, *others]}) == 5
    assert all("/" not in other.name for other in others)


@pytest.mark.parametrize(
    "address",
    [
        *("localhost:80", "ftp://host/v1", "http://", "http://[::1", "http://]", "http://host:99999", "http://host:x"),
        *("http://a..b/v1", "http://h/a b", "http://h/\n", "http://\udcff/v1", "http://user:secret@host:99999"),
    ],
)
def test_a_wrong_address_is_refused(address):
    with pytest.raises(UserError, match="expected http:// or https:// with a host") as refused:
        OpenAICompatibleJudge("m", base_url=address)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("model", ["", " ", "..", "a\n", "\udcff"])
def test_what_no_model_can_be_called_is_refused(model):
    with pytest.raises(UserError, match="expected the name of a chat model"):
        OpenAICompatibleJudge(model)


@pytest.mark.parametrize("model", ["模型", "_m", "m" * 300])
def test_a_model_of_any_other_name_has_a_file_name(model):
    first, second = (OpenAICompatibleJudge(model, base_url=url).name for url in (None, "http://localhost:1/v1"))
    assert first != second and first.isascii() and len(first) < 100


def test_credentials_in_the_address_are_not_stored():
    identity = OpenAICompatibleJudge("m", base_url="https://user:secret@host:8/v1?token=secret").identity
    assert identity["base_url"] == "https://host:8/v1"


def test_it_judges_inside_a_running_event_loop():
    """As in a notebook: the caller's loop stays usable, and results arrive before the call returns."""

    async def cell():
        found, usage = ask(judge(server, limits=Limits(timeout=5)), items(5))
        await asyncio.sleep(0)
        return found, usage

    with judge_server(lambda body, earlier: Reply()) as server:
        found, usage = asyncio.run(cell())
    assert usage.calls == 5 and all(judgement.value["pred"] == "yes" for judgement in found.values())


def test_a_refusal_inside_a_running_event_loop_is_the_same_error():
    async def cell():
        ask(judge(server, limits=Limits(timeout=5)), items(2))

    with judge_server(lambda body, earlier: Reply(status=401)) as server, pytest.raises(UserError, match="HTTP 401"):
        asyncio.run(cell())


def test_an_interrupt_inside_a_running_event_loop_ends_the_judging():
    async def cell():
        ask(judge(server, limits=Limits(timeout=60)), items(8))

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore SIGINT
    loop = asyncio.new_event_loop()  # as a notebook's kernel: SIGINT raises KeyboardInterrupt
    with judge_server(lambda body, earlier: Reply(delay=30)) as server:
        timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        started = time.monotonic()
        try:
            with pytest.raises(KeyboardInterrupt):
                loop.run_until_complete(cell())
        finally:
            timer.cancel()
            loop.close()
            signal.signal(signal.SIGINT, before)
        assert time.monotonic() - started < 20
