"""Runs the server until a signal ends it: SIGTERM or SIGINT, after which answers in flight are finished."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Server(uvicorn.Server):
    """A server that a signal ends with exit code 0; a second one ends it without waiting."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._leave)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _leave(self) -> None:
        self.force_exit, self.should_exit = self.should_exit, True


def run(app: FastAPI, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT, then finish the answers in flight."""
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", server_header=False, ws="none")
    asyncio.run(_Server(config).serve())
