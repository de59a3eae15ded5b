"""Web addresses: fetched from allowed hosts only, never from a private address, whatever redirects say."""

import gc
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import openai
import pytest
from served_world import asking, served

from vidtune.serving.files.fetch import Fetcher, is_public
from vidtune.serving.problems import ApiProblem


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
        ),
        *(
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1%eth0",
            "fc00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
        ),
        *("::127.0.0.1", "ff02::1"),
    ],
)
def test_addresses_of_this_machine_and_of_private_networks_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


@contextmanager
def web(replies):
    """A web server on this machine: path -> (status, headers, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = replies[self.path]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fetcher(port, **options):
    given = {"hosts": [f"127.0.0.1:{port}", f"localhost:{port}"], "most_bytes": 1000, "seconds": 60.0}
    return Fetcher(**{**given, "allowed": lambda address: True, **options})


def refused(fetch, url, tmp_path):
    with pytest.raises(ApiProblem) as found:
        fetch.fetch(url, tmp_path / "file", "here")
    assert found.value.status == 400 and found.value.message.startswith("here: ")
    return found.value.message


def test_a_file_is_fetched_through_redirects(tmp_path):
    with web({"/a": (302, {"Location": "/b?c=1"}, b""), "/b?c=1": (200, {}, b"found")}) as port:
        fetcher(port).fetch(f"http://127.0.0.1:{port}/a", tmp_path / "file", "here")
    assert (tmp_path / "file").read_bytes() == b"found"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said():
    with web({"/a": (200, {}, b"found")}) as port, pytest.raises(ApiProblem, match="no room left") as problem:
        fetcher(port).fetch(f"http://127.0.0.1:{port}/a", Path("/dev/full"), "here")
    assert (problem.value.status, problem.value.code) == (507, "disk_full")


def test_only_allowed_hosts_are_asked(tmp_path):
    assert "--allow-host" in refused(fetcher(1, hosts=["example.org"]), "http://example.com/a", tmp_path)
    assert "--allow-host" in refused(fetcher(1, hosts=["*.example.org"]), "http://badexample.org/a", tmp_path)
    for url in ("file:///etc/passwd", "ftp://example.org/a", "http://user:key@example.org/a", "http:///a"):
        assert "is no http" in refused(fetcher(1, hosts=["example.org"]), url, tmp_path)


def test_private_addresses_are_refused_after_resolving_and_after_redirects(tmp_path):
    with web({"/a": (302, {"Location": "file:///etc/passwd"}, b"")}) as port:
        strict = fetcher(port, allowed=is_public)
        assert "private address" in refused(strict, f"http://localhost:{port}/a", tmp_path)
        assert "is no http" in refused(fetcher(port), f"http://127.0.0.1:{port}/a", tmp_path)
    with web({"/a": (301, {"Location": "http://elsewhere.org/"}, b"")}) as port:
        assert "--allow-host" in refused(fetcher(port), f"http://127.0.0.1:{port}/a", tmp_path)
    with web({"/a": (301, {"Location": "/a"}, b"")}) as port:
        assert "redirects more than" in refused(fetcher(port), f"http://127.0.0.1:{port}/a", tmp_path)


def test_the_second_host_of_a_redirect_is_resolved_and_checked_too(tmp_path):
    with (
        web({"/b": (200, {}, b"secret")}) as inner,
        web({"/a": (302, {"Location": f"http://localhost:{inner}/b"}, b"")}) as port,
    ):
        seen = []

        def first_only(address):
            seen.append(address)
            return len(seen) == 1

        fetch = fetcher(port, hosts=[f"127.0.0.1:{port}", f"localhost:{inner}"], allowed=first_only)
        assert "private address" in refused(fetch, f"http://127.0.0.1:{port}/a", tmp_path)
    assert not (tmp_path / "file").exists()


def test_sizes_times_and_broken_replies(tmp_path):
    replies = {
        "/stated": (200, {"Content-Length": "5000"}, b""),
        "/long": (200, {}, b"x" * 2000),
        "/short": (200, {"Content-Length": "50"}, b"x"),
        "/absent": (404, {}, b""),
    }
    with web(replies) as port:
        fetch = fetcher(port)
        assert "more than 1,000 bytes" in refused(fetch, f"http://127.0.0.1:{port}/stated", tmp_path)
        assert "more than 1,000 bytes" in refused(fetch, f"http://127.0.0.1:{port}/long", tmp_path)
        assert "cannot be fetched" in refused(fetch, f"http://127.0.0.1:{port}/short", tmp_path)
        assert "status 404" in refused(fetch, f"http://127.0.0.1:{port}/absent", tmp_path)


def test_a_video_of_a_web_address_is_known_by_its_content(model, folder):
    clip = (folder / "a.mp4").read_bytes()
    with (
        web({"/x": (200, {}, clip), "/y": (200, {}, clip), "/words": (200, {}, b"words " * 50)}) as port,
        served({"tiny": model}, folder, fetcher=fetcher(port, most_bytes=10**6)) as server,
        server.client() as client,
    ):

        def say(name):
            messages = asking("What moves?", f"http://127.0.0.1:{port}/{name}")
            reply = client.chat.completions.create(model="tiny", messages=messages, max_tokens=8)
            return reply.choices[0].message.content

        assert say("x") == str(model.answer("What moves?", video=folder / "a.mp4", max_new_tokens=8))
        before = server.work()
        say("y")
        assert server.work() == before
        with pytest.raises(openai.BadRequestError, match=r"content\[0\].*words"):
            say("words")
        deadline = time.monotonic() + 60
        while list(Path(server.intake._fetched.name).iterdir()):  # a client has its answer before they go
            assert time.monotonic() < deadline
            gc.collect()


def test_a_slow_server_is_given_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert "within 0.3 s" in refused(fetcher(port, seconds=0.3), f"http://127.0.0.1:{port}/a", tmp_path)
