"""Runs the server until a signal ends it: SIGTERM or SIGINT, after which answers in flight are finished."""

import asyncio
import json
import logging
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from vidtune.errors import UserError
from vidtune.serving.problems import ApiProblem

HEADER_SECONDS = 30.0
"""Seconds in which a connection sends the head of a request, or is closed."""
BACKLOG = 2048
"""Connections that wait to be accepted."""
_CONNECTIONS = 65536
"""Open files that are asked for where the system sets no limit."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Protocol(H11Protocol):
    """Closes connections that do not send the head of a request in time; bad HTTP gets an error in OpenAI's form."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._limit is not None:
            self._limit.cancel()

    def shutdown(self) -> None:
        if self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.SEND_RESPONSE:
            self.transport.close()  # a request that has not come is not waited for
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(ApiProblem(400, msg, code="invalid_http").body).encode()
            head = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
            for event in (h11.Response(status_code=400, headers=head), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()

    def _watch(self) -> None:
        waits = self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE
        if waits and self._limit is None:
            self._limit = self.loop.call_later(HEADER_SECONDS, self.transport.close)
        elif not waits and self._limit is not None:
            self._limit.cancel()
            self._limit = None


class Server(uvicorn.Server):
    """A server that a signal ends with exit code 0; a second one ends it without waiting."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._leave)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _leave(self) -> None:
        if self.should_exit:  # what is then given up on purpose is no failure to log
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self.force_exit, self.should_exit = self.should_exit, True


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound to an address. Raises UserError if it cannot be."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, UnicodeError) as error:  # the latter: a name that no name server can hold
        reason = "is no host name" if isinstance(error, UnicodeError) else error.strerror or error
        raise UserError(f"--host {host} --port {port}: {reason}; choose another") from None
    return found


def server_config(app: FastAPI) -> uvicorn.Config:
    """How the server of an application runs."""
    return uvicorn.Config(app, log_level="warning", server_header=False, ws="none", http=_Protocol, backlog=BACKLOG)


def run(app: FastAPI, listening: socket.socket, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then finish the answers in flight.

    Args:
        ready: told the address, before the first request can come.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CONNECTIONS if most == resource.RLIM_INFINITY else most
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))  # a connection is an open file
    host, port = listening.getsockname()[:2]
    listening.listen(BACKLOG)
    ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
    asyncio.run(Server(server_config(app)).serve(sockets=[listening]))
