"""A server of tiny models on this machine, in a thread of the test, and clients of it."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI

import vidtune
from vidtune.serving.app import build_app
from vidtune.serving.limits import Limits
from vidtune.serving.media import MediaIntake
from vidtune.serving.run import Server, listen, server_config
from vidtune.serving.served import ServedModel


@dataclass(frozen=True)
class Served:
    """The running server."""

    port: int
    models: Sequence[ServedModel]
    server: Server
    intake: MediaIntake

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "none", **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)

    def work(self) -> tuple[int, int, int]:
        """Media read, encodings and prefills so far."""
        stats = self.models[0].engine.stats
        return stats.media_loaded, stats.encodings, stats.prefills


@contextmanager
def served(
    models: dict[str, vidtune.Model], root: Path, *, limits: Limits | None = None, fetcher: Any = None, **how: Any
) -> Iterator[Served]:
    """Serve until the block ends.

    Args:
        how: further arguments of `build_app`; ``max_kept`` and ``max_running`` are those of the models.
    """
    own = {name: how.pop(name) for name in ("max_kept", "max_running") if name in how}
    timeout = (limits or Limits()).media_timeout
    found = [
        ServedModel(name, one.network, one.processor, media_timeout=timeout, **{"max_kept": 2**28, **own})
        for name, one in models.items()
    ]
    listening = listen("127.0.0.1", 0)
    intake = MediaIntake(root, fetcher, limits)
    app = build_app(found, intake, limits, **{"media_workers": 1, **how})
    server = Server(server_config(app))
    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(server, listening, ready)))
    thread.start()
    ready.wait(60)
    try:
        yield Served(listening.getsockname()[1], found, server, intake)
    finally:
        server.should_exit = True
        thread.join()


async def _serve(server: Server, listening: Any, ready: threading.Event) -> None:
    work = asyncio.ensure_future(server.serve(sockets=[listening]))
    while not server.started and not work.done():
        await asyncio.sleep(0.01)
    ready.set()
    await work


def asking(text: str, *media: str | dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of one question; media first. A medium is a path or address of a video, or a whole part."""
    parts = [one if isinstance(one, dict) else {"type": "video_url", "video_url": {"url": one}} for one in media]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
