"""Clients that send too much, too often, half or nothing, or leave: one clear error, and the server goes on."""

import json
import re
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import openai
import pytest
from misbehaving import Preprocessing
from served_world import asking, served
from synthetic_clips import write_clip
from tiny_checkpoint import always_say, write_checkpoint

import vidtune
from vidtune.evaluation.judges.base import JudgeItem
from vidtune.evaluation.judges.openai_compatible import Limits as JudgeLimits
from vidtune.evaluation.judges.openai_compatible import OpenAICompatibleJudge
from vidtune.evaluation.judges.prompts import JudgePrompt
from vidtune.foreign.documents import parse_json
from vidtune.serving import served as served_module
from vidtune.serving.limits import MIB, Limits

LONG = 90_000
"""Tokens of an answer that is still being written when the client leaves, however late that is."""


@pytest.fixture(scope="module")
def server(model, folder, tmp_path_factory):
    endless = always_say(write_checkpoint(tmp_path_factory.mktemp("endless")), "xyz", after=":", endless=True)
    models = {"tiny": model, "endless": vidtune.load(endless, device="cpu", dtype="float32")}
    with served(models, folder, limits=Limits(body=MIB, queue=8, media_seconds=60.0)) as found:
        yield found


def head(server, length, more=""):
    lines = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{more}"
    return f"{lines}Content-Type: application/json\r\n\r\n".encode()


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=120)


def response(connection):
    received = b""
    while piece := connection.recv(65536):
        received += piece
        if b"\r\n\r\n" in received:
            top, _, body = received.partition(b"\r\n\r\n")
            lengths = [line for line in top.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if lengths and len(body) >= int(lengths[0].split(b":")[1]):
                return int(top.split()[1]), parse_json(body)
    raise AssertionError(f"no response: {received!r}")


def body_of(**options):
    given = {"model": "tiny", "messages": asking("What moves?", "a.mp4"), "max_tokens": 8, **options}
    return json.dumps(given).encode()


def wait_until(reached, seconds=60.0):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def works(server):
    with server.client() as client:
        reply = client.chat.completions.create(model="tiny", messages=asking("What moves?", "a.mp4"), max_tokens=4)
        return len(reply.choices[0].message.content) > 0


@pytest.mark.parametrize("sent", [b"", b"x" * 100])
def test_a_body_of_ten_gigabytes_is_refused_at_its_head(server, sent):
    with connect(server) as connection:
        connection.sendall(head(server, 10 * 2**30) + sent)
        status, reply = response(connection)
    assert status == 413 and "1 MiB" in reply["error"]["message"]


def test_a_body_without_a_stated_size_is_cut_where_it_is_too_large(server):
    with connect(server) as connection:
        lines = head(server, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        connection.sendall(lines)
        for _ in range(17):
            connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        status, reply = response(connection)
    assert (status, reply["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("body", "part"),
    [(b"{not json", "not valid JSON"), (b"[]", "no object"), (b"\xff\xfe", "not valid JSON"), (b"", "JSON")],
)
def test_invalid_json_is_named(server, body, part):
    with connect(server) as connection:
        connection.sendall(head(server, len(body)) + body)
        status, reply = response(connection)
    assert status == 400 and part in reply["error"]["message"] and reply["error"]["type"] == "invalid_request_error"


def test_unknown_addresses_and_forms_get_the_form_of_errors(server):
    with connect(server) as connection:
        connection.sendall(b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        status, reply = response(connection)
        assert status == 404 and "/v1/nothing" in reply["error"]["message"]
    for kind in (b"text/plain", b"text/plain; charset=json", b"multipart/form-data; boundary=json"):
        with connect(server) as connection:
            connection.sendall(head(server, 2).replace(b"application/json", kind) + b"{}")
            status, reply = response(connection)
            assert status == 415


def test_more_questions_than_places_are_told_when_to_come_again(server):
    body = body_of()
    with ExitStack() as open_ones, server.client() as client:
        waiting_ones = [open_ones.enter_context(connect(server)) for _ in range(8)]
        for one in waiting_ones:
            one.sendall(head(server, len(body)) + body[:10])
        wait_until(lambda: waiting(server) == 8)
        for _ in range(3):
            with pytest.raises(openai.RateLimitError) as refused:
                client.chat.completions.create(model="tiny", messages=asking("What?", "a.mp4"))
            assert int(refused.value.response.headers["retry-after"]) >= 1
        for one in waiting_ones:
            one.sendall(body[10:])
        assert [response(one)[0] for one in waiting_ones] == [200] * 8
    assert works(server)


def test_a_client_that_leaves_while_it_is_streamed_to_frees_its_place(server):
    engine = server.models[1].engine
    answered = engine.stats.questions
    body = body_of(model="endless", stream=True, max_tokens=LONG)
    connection = connect(server)
    connection.sendall(head(server, len(body)) + body)
    assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert engine.running == 1
    connection.close()
    wait_until(lambda: engine.running == 0)
    assert engine.stats.questions == answered
    assert works(server)


def test_a_client_that_leaves_while_it_waits_frees_its_place(server):
    engine = server.models[1].engine
    answered = engine.stats.questions
    body = body_of(model="endless", max_tokens=LONG)
    connection = connect(server)
    connection.sendall(head(server, len(body)) + body)
    wait_until(lambda: engine.running == 1)
    connection.close()
    wait_until(lambda: engine.running == 0)
    assert engine.stats.questions == answered


def test_half_requests_leave_nothing_behind(server):
    assert works(server)
    before = files_and_threads()
    for sent in (b"", b"POST /v1", head(server, 100), head(server, 100) + b'{"model"'):
        with connect(server) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1000)
    wait_until(lambda: files_and_threads()[0] <= before[0])
    assert files_and_threads()[1] <= before[1] + 1
    assert works(server)


def files_and_threads():
    """Open files of this process, and its threads."""
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def test_a_video_that_hangs_is_given_up(server, folder, monkeypatch):
    write_clip(folder / "hangs.mp4", num_frames=3)
    with monkeypatch.context() as patched, server.client() as client:
        patched.setattr(server.models[0]._loader._pool, "timeout", 1.0)
        patched.setattr(served_module, "as_read", lambda *_: Preprocessing("hang"))
        with pytest.raises(openai.BadRequestError, match=r"'hangs\.mp4': was not read within 1 s"):
            client.chat.completions.create(model="tiny", messages=asking("What?", "hangs.mp4"))
    assert works(server)


def test_a_video_that_is_too_long_is_refused(server, folder):
    write_clip(folder / "long.mp4", num_frames=4, times=[0, 1, 2, 4000])
    with server.client() as client, pytest.raises(openai.BadRequestError, match="60 s are allowed"):
        client.chat.completions.create(model="tiny", messages=asking("What?", "long.mp4"))


def test_frames_that_are_asked_for_are_read(server):
    with server.client() as client:
        parts = [{"type": "video_url", "video_url": {"url": "a.mp4", "frames_at": [0.0, 0.1]}}]
        reply = client.chat.completions.create(model="tiny", messages=asking("What?", *parts), max_tokens=4)
        assert reply.choices[0].message.content
        parts = [{"type": "video_url", "video_url": {"url": "a.mp4", "start": 3.0, "end": 1.0}}]
        with pytest.raises(openai.BadRequestError, match="start"):
            client.chat.completions.create(model="tiny", messages=asking("What?", *parts))


def test_a_judge_of_our_own_asks_the_server(server):
    prompt = JudgePrompt("short", "", "{question} {pred}")
    chosen = {"max_tokens": 8, "temperature": 0}
    limits = JudgeLimits(timeout=120.0, attempts=1, backoff=0.01, longest_wait=1.0)
    judge = OpenAICompatibleJudge("tiny", base_url=f"{server.url}/v1", prompt=prompt, limits=limits, parameters=chosen)
    usage = judge.judge([JudgeItem(str(n), f"question {n}?", "a", "b") for n in range(3)], lambda found: None)
    assert usage.calls >= 3 and usage.completion_tokens == 8 * usage.calls


def test_the_key_is_asked_for(model, folder):
    with served({"tiny": model}, folder, api_key="secret") as server:
        with server.client("wrong") as client, pytest.raises(openai.AuthenticationError, match="API key"):
            client.models.list()
        with server.client("secret") as client:
            assert [one.id for one in client.models.list()] == ["tiny"]


def test_answers_in_flight_are_finished_when_the_server_ends(model, folder):
    with served({"tiny": model}, folder) as server, server.client() as client:
        stream = client.chat.completions.create(
            model="tiny", messages=asking("What moves?", "a.mp4"), max_tokens=60, stream=True
        )
        first = next(iter(stream))
        server.server.should_exit = True
        reasons = [chunk.choices[0].finish_reason for chunk in (first, *stream)]
    assert reasons[-1] == "length"


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_failure(server, caplog):
    caplog.set_level("ERROR", logger="uvicorn.error")
    with connect(server) as connection:
        connection.sendall(head(server, 100) + b'{"model"')
        wait_until(lambda: waiting(server) == 1)
    wait_until(lambda: waiting(server) == 0)
    assert works(server)
    assert not [record for record in caplog.records if record.exc_info]


def waiting(server):
    """Requests that have a place."""
    with urlopen(f"{server.url}/metrics") as metrics:
        return float(re.findall(r"(?m)^vidtune_requests_in_flight\S* (\S+)$", metrics.read().decode())[0])


def test_bad_http_gets_the_form_of_errors(server):
    with connect(server) as connection:
        connection.sendall(b"\x16\x03\x01\r\n\r\n")
        status, reply = response(connection)
    assert (status, reply["error"]["code"]) == (400, "invalid_http")


def test_a_name_that_is_not_the_servers_is_refused(model, folder):
    with served({"tiny": model}, folder, hosts=("127.0.0.1", "localhost")) as server:
        for host, expected in ((b"evil.org:80", 400), (b"", 400), (b"LOCALHOST:1", 200), (b"127.0.0.1", 200)):
            with connect(server) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
                status, reply = response(connection)
            assert status == expected
            assert status == 200 or reply["error"]["code"] == "invalid_host"


@pytest.mark.parametrize("prompt", ["\ud800", "two\nlines", "x" * 10**5])
def test_an_error_that_quotes_a_request_is_one_short_line(server, prompt):
    body = body_of(prompt=prompt)
    with connect(server) as connection:
        connection.sendall(head(server, len(body)) + body)
        status, reply = response(connection)
    message = reply["error"]["message"]
    assert status == 400 and message.startswith("prompt format") and message.isprintable() and len(message) < 1100


def test_frames_are_not_made_of_a_text(server):
    body = json.dumps({"model": "tiny", "medium": {"type": "text", "text": "What?"}}).encode()
    with connect(server) as connection:
        connection.sendall(head(server, len(body)).replace(b"chat/completions", b"frames") + body)
        status, reply = response(connection)
    assert (status, reply["error"]["param"]) == (400, "medium")


def test_more_frames_than_memory_holds_are_refused(server):
    part = {"type": "video_url", "video_url": {"url": "a.mp4", "frames": 10**9}}
    with server.client() as client, pytest.raises(openai.BadRequestError, match="65,536 is the most"):
        client.chat.completions.create(model="tiny", messages=asking("What?", part))


def test_half_a_request_does_not_keep_the_server_from_ending(model, folder):
    with served({"tiny": model}, folder) as server:
        connection = connect(server)
        connection.sendall(head(server, 100) + b'{"model"')
        wait_until(lambda: waiting(server) == 1)
        began = time.monotonic()
    connection.close()
    assert time.monotonic() - began < 100  # else as long as a body may take, 316 s
