"""A chat endpoint on this machine that answers, fails or hangs as a test wants."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

YES = "{'pred': 'yes', 'score': 5}"


@dataclass
class Reply:
    """One HTTP response.

    Args:
        content: what the judge says; None sends ``body`` instead.
        delay: seconds before anything is sent.
        drip: send one byte every 0.05 s, so that something keeps coming for very long.
        drop: close the connection instead of answering.
    """

    content: str | None = YES
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    delay: float = 0.0
    drip: bool = False
    drop: bool = False

    def payload(self) -> bytes:
        if self.body is not None:
            return self.body
        if self.status != 200:
            return json.dumps({"error": {"message": f"status {self.status}"}}).encode()
        message = {"role": "assistant", "content": self.content}
        chat = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        return json.dumps({**chat, "choices": choices, "usage": usage}).encode()


@dataclass
class JudgeServer:
    """The running server.

    Args:
        requests: bodies received, in order; ``headers`` (names in lower case) and ``times`` alike.
        peak: most requests under way at a time.
    """

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    under_way: int = 0
    peak: int = 0

    def question(self, number: int) -> str:
        return self.requests[number]["messages"][1]["content"]


@contextmanager
def judge_server(reply: Callable[[dict[str, Any], int], Reply]) -> Iterator[JudgeServer]:
    """Serve until the block ends.

    Args:
        reply: (request body, how many requests with the same body came before) -> response.
    """
    lock = threading.Lock()
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                earlier = sum(request == body for request in server.requests)
                server.requests.append(body)
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                server.times.append(time.monotonic())
                server.under_way += 1
                server.peak = max(server.peak, server.under_way)
            try:
                self._respond(reply(body, earlier))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with lock:
                    server.under_way -= 1

        def _respond(self, answer: Reply) -> None:
            stopped.wait(answer.delay)
            if answer.drop:
                self.close_connection = True
                return
            payload = answer.payload()
            self.send_response(answer.status)
            for name, value in {"content-type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            if answer.drip:
                for byte in payload[:-1]:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    if stopped.wait(0.05):
                        return
            self.wfile.write(payload)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = JudgeServer(f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        stopped.set()
        http.shutdown()
        http.server_close()
        thread.join()
