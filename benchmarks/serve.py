"""The server under load: requests per second, time to the first token, equal answers, memory.

A random tiny model with the published size of pictures and number of frames (8 frames of 224 x 224, 257 tokens each) is
served by ``vidtune serve`` in a process of its own; clients send requests over loopback.

- load: 20 questions on each of 8 videos, one at a time, then by 64 clients at a time, each on a server that has seen
  none of these videos, so both read every video once;
- turns: streamed time to the first token of a first turn about a new video, and of its second turn;
- chats: scripted chats of two turns by 64 clients; every answer must equal that of ``vidtune chat`` in a terminal;
- memory: resident memory of the server, and of its processes that read media, after a tenth of ``--requests``, and
  after all of them.

Each measurement has a server of its own.

    python benchmarks/serve.py
    python benchmarks/serve.py --only load --only turns           # some of the measurements
    python benchmarks/serve.py --chats 100 --requests 1000        # minutes less

The last line, ``ratio <number>``, is requests per second by 64 clients over one at a time; with ``--only`` it comes
with ``load``.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import av
import numpy as np
import torch
from shared_prefix import build

Turns = list[dict[str, Any]]
NAME = "tiny"
PARTS = ("load", "turns", "chats", "memory")


def main() -> None:
    options = parse_options()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(folder / "model")
        videos = [write_video(folder / "media" / f"{number}.mp4", number) for number in range(options.videos)]
        print(f"machine: {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}")
        parts = options.only or PARTS
        if "turns" in parts:
            turns(folder, options)
        if "chats" in parts:
            chats(folder, videos, options)
        if "memory" in parts:
            memory(folder, videos, options)
        if "load" in parts:
            load(folder, videos, options)


def parse_options() -> Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=PARTS, help="may be repeated; default: all of them")
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--questions", type=int, default=20, help="on each video")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--answer-tokens", type=int, default=32)
    parser.add_argument("--chats", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=10000, help="after which memory is read a second time")
    return parser.parse_args()


def write_model(folder: Path) -> None:
    sizes = {
        "hidden": 64,
        "layers": 2,
        "heads": 4,
        "mlp": 128,
        "vocab": 2000,
        "tower_layers": 2,
        "frames": 8,
        "seed": 0,
    }
    model, processor = build(Namespace(**sizes))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "recipe.yaml").write_text(f"system: {processor.system}\n")


def write_video(path: Path, seed: int) -> str:
    """Ten seconds of 320 x 240, each second of its own picture. Returns the name of the file."""
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for _ in range(10):
            blocks = np.kron(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), np.ones((40, 40, 1), np.uint8))
            for _ in range(25):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(blocks)))
        container.mux(stream.encode())
    return path.name


@contextmanager
def server(folder: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The server in a process of its own; gives its port. It must end with exit code 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vidtune", "serve", str(folder / "model"), "--name", NAME, "--device", "cpu"]
    command += ["--media-root", str(folder / "media"), "--port", str(port), "--dtype", "float32"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while True:
            assert process.poll() is None, "the server did not start"
            try:
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    if b"200 OK" in connection.recv(1000):
                        break
            except OSError:
                time.sleep(0.1)
        yield port, process
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, f"the server ended with exit code {process.returncode}"
    finally:
        process.kill()


class Client:
    """A client with one connection that is kept."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, messages: Turns, tokens: int) -> str:
        """Returns the answer."""
        reader = await self._send(messages, tokens, stream=False)
        body = await reader.readexactly(await self._head(reader))
        return str(json.loads(body)["choices"][0]["message"]["content"])

    async def first_token(self, messages: Turns, tokens: int) -> tuple[float, str]:
        """Returns the seconds to the first piece of a streamed answer, and the whole answer."""
        began, text, first = time.perf_counter(), "", 0.0
        reader = await self._send(messages, tokens, stream=True)
        async for line in reader:
            if line.startswith(b"data: {"):
                [choice] = json.loads(line[6:])["choices"]
                text += choice["delta"].get("content") or ""
                first = first or (time.perf_counter() - began if choice["delta"].get("content") else 0.0)
            if line.startswith(b"data: [DONE]"):
                break
        self.close()
        return first, text

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None

    async def _send(self, messages: Turns, tokens: int, stream: bool) -> asyncio.StreamReader:
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        body = json.dumps({"model": NAME, "messages": messages, "max_tokens": tokens, "stream": stream}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        await writer.drain()
        return reader

    async def _head(self, reader: asyncio.StreamReader) -> int:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 200"), head
        return int(head.split("content-length: ")[1].split("\r\n")[0])


def asked(text: str, video: str | None = None) -> dict[str, Any]:
    media = [] if video is None else [{"type": "video_url", "video_url": {"url": video}}]
    return {"role": "user", "content": [*media, {"type": "text", "text": text}]}


def question(number: int) -> str:
    return " ".join(f"w{(number * 37 + step * 11) % 1900}" for step in range(12))


async def by_clients(port: int, number: int, work: Sequence[Callable[[Client], Awaitable[None]]]) -> None:
    """Do the work by so many clients, each of which does one piece after another."""
    left = iter(work)

    async def run() -> None:
        client = Client(port)
        for one in left:
            await one(client)
        client.close()

    await asyncio.gather(*(run() for _ in range(number)))


def load(folder: Path, videos: list[str], options: Namespace) -> None:
    """Print requests per second of one client and of many, and their ratio."""
    alone, together = (load_rate(folder, videos, options, clients) for clients in (1, options.clients))
    print(f"load: {alone:.2f} requests/s one at a time, {together:.2f} by {options.clients} clients")
    print(f"ratio {together / alone:.2f}")


def load_rate(folder: Path, videos: list[str], options: Namespace, clients: int) -> float:
    """Requests per second of all questions on all videos."""

    def work(video: str, number: int) -> Callable[[Client], Awaitable[None]]:
        async def ask(client: Client) -> None:
            await client.ask([asked(question(number), video)], options.answer_tokens)

        return ask

    tasks = [work(video, number) for number in range(options.questions) for video in videos]
    others = [write_video(folder / "media" / f"other-{number}.mp4", 50 + number) for number in range(4)]
    with server(folder) as (port, _):
        asyncio.run(by_clients(port, len(others), [work(video, 0) for video in others]))  # all its processes have begun
        began = time.perf_counter()
        asyncio.run(by_clients(port, clients, tasks))
        return len(tasks) / (time.perf_counter() - began)


def turns(folder: Path, options: Namespace) -> None:
    """Print the time to the first token of first and second turns about videos that nobody has asked about."""
    new = [write_video(folder / "media" / f"new-{number}.mp4", 100 + number) for number in range(options.videos)]

    async def measure(port: int) -> list[tuple[float, float]]:
        found = []
        for number, video in enumerate(new):
            first, text = await Client(port).first_token([asked(question(number), video)], options.answer_tokens)
            talk = [asked(question(number), video), {"role": "assistant", "content": text}, asked(question(number + 1))]
            second, _ = await Client(port).first_token(talk, options.answer_tokens)
            found.append((first, second))
        return found

    with server(folder) as (port, _):
        times = asyncio.run(measure(port))
    first, second = (median(column) for column in zip(*times, strict=True))
    print(f"turns: first token after {first:.3f} s, in the second turn {second:.3f} s: {second / first:.3f} of it")


def chats(folder: Path, videos: list[str], options: Namespace) -> None:
    """Print how many scripted chats have another answer than on the command line."""
    scripts = [(question(3 * number), question(5 * number + 1)) for number in range(4)]
    expected = {
        (video, *script): answers
        for video in videos
        for script, answers in zip(scripts, typed(folder, video, scripts, options), strict=True)
    }
    wrong = 0

    def work(script: tuple[str, str, str]) -> Callable[[Client], Awaitable[None]]:
        async def ask(client: Client) -> None:
            nonlocal wrong
            video, one, two = script
            first = await client.ask([asked(one, video)], options.answer_tokens)
            talk = [asked(one, video), {"role": "assistant", "content": first}, asked(two)]
            wrong += [first, await client.ask(talk, options.answer_tokens)] != expected[script]

        return ask

    every = list(expected)
    tasks = [work(every[number % len(every)]) for number in range(options.chats)]
    with server(folder) as (port, _):
        asyncio.run(by_clients(port, options.clients, tasks))
    print(f"chats: {options.chats} of two turns, 0 errors, {wrong} with another answer")


def typed(folder: Path, video: str, scripts: Sequence[tuple[str, str]], options: Namespace) -> list[list[str]]:
    """The answers of ``vidtune chat`` to the turns of scripted chats about one video."""
    command = [sys.executable, "-m", "vidtune", "chat", str(folder / "model"), "--device", "cpu", "--dtype", "float32"]
    command += ["--video", str(folder / "media" / video), "--max-new-tokens", str(options.answer_tokens)]
    lines = "".join(f"{one}\n{two}\n/reset\n" for one, two in scripts)
    said = subprocess.run(command, input=lines, stdout=subprocess.PIPE, text=True, check=True).stdout.split("\n")[:-1]
    assert len(said) == 2 * len(scripts), said
    return [said[place : place + 2] for place in range(0, len(said), 2)]


def memory(folder: Path, videos: list[str], options: Namespace) -> None:
    """Print the resident memory of the server after a tenth of the requests, and after all."""

    def work(number: int) -> Callable[[Client], Awaitable[None]]:
        async def ask(client: Client) -> None:
            await client.ask([asked(question(number), videos[number % len(videos)])], 4)

        return ask

    tasks = [work(number) for number in range(options.requests)]
    begin = options.requests // 10
    found = []
    with server(folder) as (port, process):
        for part in (tasks[:begin], tasks[begin:]):
            asyncio.run(by_clients(port, options.clients, part))
            found.append((resident(process.pid), sum(map(resident, children(process.pid)))))
    for name, (early, late) in zip(
        ("the server", "the processes that it starts"), zip(*found, strict=True), strict=True
    ):
        print(
            f"memory of {name}: {early:.0f} MiB after {begin} requests, {late:.0f} MiB after {options.requests}: "
            f"{late / early:.3f}"
        )


def resident(process: int) -> float:
    """Resident memory of a process in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def children(process: int) -> list[int]:
    """All processes below a process."""
    own = [
        int(one) for task in Path(f"/proc/{process}/task").iterdir() for one in (task / "children").read_text().split()
    ]
    return [below for child in own for below in (child, *children(child))]


if __name__ == "__main__":
    main()
