"""Models that vidtune has not written: of transformers, with their own processors, and behind endpoints."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
from judge_server import Reply, judge_server
from PIL import Image
from qa_sets import records, write_set, write_video
from tiny_vlms import KINDS, write_vlm

import vidtune
from vidtune.cli.main import run
from vidtune.errors import UserError
from vidtune.evaluation.judges.limits import Limits, Prices

SUPPORT = Path(__file__).parents[1] / "support"
ROOT = SUPPORT.parents[1]
FEW = ["--protocol", "preprocessing.num_frames=3", "--protocol", "generation.max_new_tokens=3", "--workers", "0"]
QUICK = Limits(timeout=5.0, attempts=2, backoff=0.01)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    entries = [("red", "what?", "a square"), ("red", "who?", "nobody"), ("blue", "what?", "x"), ("gone", "what?", "y")]
    folder = write_set(tmp_path_factory.mktemp("set"), entries, missing=["gone"])
    for name, colour in (("red", (200, 20, 20)), ("blue", (20, 20, 200))):
        write_video(folder / "videos" / f"{name}.mp4", colour)
    return folder


def asked(data, out, *words):
    given = ["--benchmark", "world_qa", "--data", str(data), "--out", str(out)]
    return run(["evaluate", *given, *words])


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "llava_onevision"])
def test_a_model_of_transformers_answers_by_its_chat_template_and_processor(kind, data, tmp_path, capsys):
    folder = str(write_vlm(tmp_path / kind, kind))
    images = ["--protocol", "preprocessing.given=images", "--device", "cpu"]
    assert asked(data, tmp_path / "out", folder, *FEW, *images) == 0
    shown = capsys.readouterr()
    assert "3 of 4 questions answered" in shown.out and "1 without file" in shown.out
    assert "Loading weights" not in shown.err
    found = tmp_path / "out" / "world_qa"
    first = records(found / "predictions.jsonl")
    assert [line["video"] for line in first] == ["red", "red", "blue"] and not any("error" in line for line in first)
    info = json.loads((found / "run.json").read_text())
    assert info["system"] == f"transformers:{kind}" and info["arithmetic"] == {"device": "cpu", "dtype": "float32"}
    assert info["protocol"]["prompt_format"].startswith("chat_template-")
    assert info["protocol"]["preprocessing"]["given"] == "images"
    assert asked(data, tmp_path / "out", folder, *FEW, *images) == 0  # nothing is left to ask
    assert records(found / "predictions.jsonl") == first
    if kind == "qwen2_5_vl":
        return
    assert asked(data, tmp_path / "no", folder, *FEW, "--device", "cpu") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "pip install torchvision" in said and "preprocessing.given=images" in said
    (tmp_path / kind / "config.json").write_text('{"model_type": "mystery", "auto_map": {"AutoModel": "x.Y"}}')
    assert asked(data, tmp_path / "no", folder, *FEW) == 2
    assert "code that lies beside weights is never run" in capsys.readouterr().err


@pytest.mark.whole
def test_models_of_transformers_get_videos_by_their_own_processors(data, tmp_path):
    paths = [ROOT / "src", SUPPORT, SUPPORT / "stand_ins"]
    command = [sys.executable, str(SUPPORT / "evaluate_vlms.py"), str(tmp_path), str(data)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    for kind in KINDS:
        found = tmp_path / "out" / kind / "world_qa"
        answers = records(found / "predictions.jsonl")
        assert len(answers) == 3 and not any("error" in line for line in answers)
        info = json.loads((found / "run.json").read_text())
        assert info["protocol"]["preprocessing"]["given"] == "video" and info["system"] == f"transformers:{kind}"


def said_by(text="a square", **changes):
    message = {"role": "assistant", "content": text}
    body = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
    body["usage"] = {"prompt_tokens": 100, "completion_tokens": 10}
    return Reply(body=json.dumps({**body, **changes}).encode())


def asks(request):
    return next(part["text"] for part in request["messages"][0]["content"] if part["type"] == "text")


def by_endpoint(server, data, out, **options):
    model = vidtune.Endpoint("tiny", base_url=server.url, **{"limits": QUICK, **options.pop("model", {})})
    return vidtune.evaluate(model, "world_qa", data=data, out=out, progress=False, **options)


def test_an_endpoint_gets_frames_as_pictures_and_its_cost_is_counted(data, tmp_path, capsys):
    with judge_server(lambda body, earlier: said_by()) as server:
        words = ["--model", "tiny", "--endpoint", server.url, "--endpoint-prices", "1", "10"]
        assert asked(data, tmp_path, *words, *FEW) == 0
        assert len(server.requests) == 3
        assert asked(data, tmp_path, *words, *FEW) == 0  # nothing is left to ask
        assert len(server.requests) == 3
    shown = capsys.readouterr().out
    assert "asked, with earlier sessions: 3 requests, 330 tokens, cost 0.00" in shown
    [usage] = records(tmp_path / "world_qa" / "usage.jsonl")
    assert (usage["calls"], usage["prompt_tokens"], usage["cost"]) == (3, 300, pytest.approx(0.0006))
    [message] = server.requests[0]["messages"]
    pictures = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    assert len(pictures) == 3 and asks(server.requests[0]) == "what?"
    data_of = base64.b64decode(pictures[0].removeprefix("data:image/jpeg;base64,"))
    red, _, blue = Image.open(io.BytesIO(data_of)).convert("RGB").getpixel((2, 2))
    assert red > 150 > blue and server.requests[0]["temperature"] == 0 and server.requests[0]["max_tokens"] == 3
    info = json.loads((tmp_path / "world_qa" / "run.json").read_text())
    assert info["checkpoint"]["path"] == f"tiny at {server.url}" and info["system"] == "endpoint"


def test_an_endpoint_gets_frames_as_one_video(data, tmp_path):
    rules = {"preprocessing": {"given": "video", "num_frames": 4}}
    with judge_server(lambda body, earlier: said_by()) as server:
        score = by_endpoint(server, data, tmp_path, protocol=rules, limit=1)
    assert score.accuracy == 1.0
    [part] = [part for part in server.requests[0]["messages"][0]["content"] if part["type"] == "video_url"]
    sent = base64.b64decode(part["video_url"]["url"].removeprefix("data:video/mp4;base64,"))
    with av.open(io.BytesIO(sent)) as container:
        assert len(list(container.decode(video=0))) == 4
        assert float(container.duration / av.time_base) == pytest.approx(1.0, abs=0.3)  # that of the clip


ODD = {
    "streams only": Reply(
        body=b'data: {"choices": []}\n\ndata: [DONE]\n\n', headers={"content-type": "text/event-stream"}
    ),
    "content as a number": said_by(7),
    "choices as an object": said_by(choices={"message": {"content": "x"}}),
    "refused": Reply(status=400),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_question_without_a_readable_answer_fails_and_the_run_goes_on(odd, data, tmp_path):
    with judge_server(lambda body, earlier: ODD[odd] if asks(body) == "who?" else said_by(usage=None)) as server:
        score = by_endpoint(server, data, tmp_path)
    lines = {line["question"]: line for line in records(tmp_path / "world_qa" / "predictions.jsonl")}
    assert lines["who?"]["pred"] == "" and lines["who?"]["error"]
    assert lines["what?"]["pred"] == "a square" and score.accuracy is not None
    assert len(server.requests) == 3  # none is sent again
    [usage] = records(tmp_path / "world_qa" / "usage.jsonl")
    assert usage["uncounted"] >= 2


def test_a_page_of_a_gateway_is_asked_again_and_thoughts_are_no_answer(data, tmp_path):
    thoughts = [{"type": "thinking", "text": "a circle?"}, {"type": "text", "text": "a square"}]
    page = Reply(body=b"<html>busy</html>")
    with judge_server(lambda body, earlier: said_by(thoughts) if earlier else page) as server:
        assert by_endpoint(server, data, tmp_path, limit=1).accuracy == 1.0
        assert len(server.requests) == 2


def test_a_budget_holds_from_the_first_request_and_over_sessions(data, tmp_path, capsys):
    words = ["--endpoint-prices", "1000000", "0", "--endpoint-concurrency", "1", *FEW]
    with judge_server(lambda body, earlier: said_by()) as server:
        words = ["--model", "tiny", "--endpoint", server.url, *words, "--endpoint-max-cost"]
        assert asked(data, tmp_path, *words, "0") == 2 and not server.requests
        assert asked(data, tmp_path, *words, "2400") == 2 and len(server.requests) == 2  # about 2300, then 100 each
        assert asked(data, tmp_path, *words, "150") == 2 and len(server.requests) == 2
    assert capsys.readouterr().err.count("asking stopped at its limit") == 3


@pytest.mark.parametrize(("status", "said"), [(401, "HTTP 401"), (404, "HTTP 404")])
def test_a_refused_key_or_an_unknown_model_ends_the_asking_at_once(status, said, data, tmp_path, capsys):
    with judge_server(lambda body, earlier: Reply(status=status)) as server:
        assert asked(data, tmp_path, "--model", "tiny", "--endpoint", server.url, *FEW) == 2
        assert len(server.requests) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert said in line and "model tiny at http://127.0.0.1" in line
    with judge_server(lambda body, earlier: said_by()) as server:  # the same run goes on
        assert by_endpoint(server, data, tmp_path / "new").accuracy is not None


def test_answers_that_came_before_the_end_of_an_endpoint_are_kept(data, tmp_path):
    trouble = {"limits": Limits(concurrency=1, timeout=5, attempts=1, backoff=0.01, failures=1)}

    def reply(body, earlier):
        return said_by() if len(server.requests) < 2 else Reply(status=401)

    with judge_server(reply) as server, pytest.raises(UserError, match="HTTP 401"):
        by_endpoint(server, data, tmp_path, model=trouble)
    assert len(records(tmp_path / "world_qa" / "predictions.jsonl")) == 1


def test_several_requests_are_under_way_and_trouble_that_passes_is_waited_for(data, tmp_path):
    def reply(body, earlier):
        return Reply(status=429) if earlier == 0 and asks(body) == "who?" else said_by()

    limits = Limits(concurrency=3, timeout=5, backoff=0.01, max_cost=9.0)
    with judge_server(reply) as server:
        score = by_endpoint(server, data, tmp_path, model={"limits": limits, "prices": Prices(1, 1)})
    assert len(server.requests) == 4 and score.accuracy is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a checkpoint, or a model behind an endpoint"),
        (["--endpoint", "http://localhost:1"], "name the model to ask there with --model NAME"),
        (["--model", "m", "--endpoint", "localhost"], "endpoint address 'localhost': expected http://"),
        (["--model", "m"], "set the environment variable OPENAI_API_KEY"),
        (["--model", "m", "--endpoint", "http://x", "--protocol", "preprocessing.fps=3"], "rules of this model: "),
        (["--model", "m", "--endpoint", "http://x", "--without", "video"], "nothing else"),
    ],
)
def test_what_cannot_answer_is_said_in_one_line(words, message, data, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert asked(data, tmp_path, *words) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert message in line
