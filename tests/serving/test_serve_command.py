"""``vidtune serve`` as a process: it says where it listens, answers, and a signal ends it with exit code 0."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from openai import OpenAI
from served_world import asking

from vidtune.cli.main import main
from vidtune.errors import UserError
from vidtune.serving.files.fetch import check_host
from vidtune.serving.run import listen


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match=r"--port .*choose another"):
        listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.whole
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_answers_in_flight_finish(checkpoint, folder, model, number):
    command = [sys.executable, "-m", "vidtune", "serve", str(checkpoint), "--name", "base", "--port", "0"]
    command += ["--model", f"other={checkpoint}", "--media-root", str(folder), "--device", "cpu"]
    environment = {**os.environ, "VIDTUNE_API_KEY": "secret"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("serving at"))
        with OpenAI(base_url=re.findall(r"http\S+", line)[0] + "v1", api_key="secret", max_retries=0) as client:
            assert [one.id for one in client.models.list()] == ["base", "other"]
            stream = client.chat.completions.create(
                model="other", messages=asking("What moves?", "a.mp4"), max_tokens=50, stream=True
            )
            pieces = [next(iter(stream))]
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            process.send_signal(number)
            pieces += stream
        said = "".join(piece.choices[0].delta.content or "" for piece in pieces)
        assert said == str(model.answer("What moves?", video=folder / "a.mp4", max_new_tokens=50))
        assert process.wait(60) == 0
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{child}").exists() for child in children):  # they end when the server has
            assert time.monotonic() < deadline
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "a" * 300], "is no host name"),
        (["--name", "\x1b"], "--name"),
        (["--api-key", ""], "--api-key"),
        (["--allow-host", "http://example.org/"], "--allow-host"),
        (["--allow-host", "*"], "--allow-host"),
        (["--kept-memory", "inf"], "--kept-memory"),
        (["--media-workers", "100000"], "--media-workers"),
        (["--device", "meta"], "device 'meta'"),
    ],
)
def test_options_that_cannot_be_are_refused_before_the_server_runs(checkpoint, capsys, options, said):
    with pytest.raises(SystemExit) as left:
        main(["serve", str(checkpoint), "--port", "0", *options])
    assert left.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("given", ["example.org", "*.example.org", "example.org:8080", "127.0.0.1", "::1", "bücher.de"])
def test_hosts_that_can_be_allowed(given):
    check_host(given)
