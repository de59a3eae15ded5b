"""Worker processes: each runs one function at the other end of a connection, and ends with the program.

They are forked from a server process that has the libraries loaded (`vidtune.machine.fork_server`). SIGINT and SIGTERM,
which reach every process of a terminal or a job, do nothing to them: the program decides what ends. They never import
the program's main module, so a script needs no ``if __name__ == "__main__"`` guard on their account.
"""

import atexit
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.machine.fork_server import HELD_SIGNALS, receive_message, send_message

_REAP_SECONDS = 1.0
_CLOSE_SECONDS = 5.0


class Worker:
    """A worker process, as its parent sees it.

    Args:
        serve: function of a module (not of the main module) that runs in the process, called with the connection, the
            descriptors and the arguments. The process ends when it returns.
        arguments: picklable.
        descriptors: open files that the process gets copies of.
        modules: modules that later workers need as well: the server imports them once for all.

    Attributes:
        pid: process id.
        connection: our end of the connection; it reads as ended when the process has ended.

    Raises:
        UserError: the server process cannot be started.
    """

    def __init__(
        self,
        serve: Callable[..., None],
        *arguments: Any,
        descriptors: Sequence[int] = (),
        modules: Sequence[str] = (),
    ) -> None:
        job = pickle.dumps((_connect, (serve, len(descriptors), arguments)))
        self._exit_code: int | None = None
        self.connection, theirs = Pipe()
        try:
            modules = (serve.__module__, *modules)
            self._server, self.pid = _start(modules, job, [theirs.fileno(), *descriptors])
        except BaseException:
            self.connection.close()
            raise
        finally:
            theirs.close()

    def exit_code(self) -> int | None:
        """Return the exit code, after waiting for the end for up to a second: minus the number of the signal that
        ended the process, or None if it still runs or its code is not known.
        """
        if self._exit_code is None:
            self._exit_code = self._server.ask(("reap", self.pid, _REAP_SECONDS))
        return self._exit_code

    def end(self) -> None:
        """Kill the process and close the connection. One that is stuck in the kernel is left alone after a second."""
        if self._exit_code is None:
            with suppress(ProcessLookupError):  # until it is reaped, no other process gets its id
                os.kill(self.pid, signal.SIGKILL)
            self.exit_code()
        self.connection.close()


def _connect(*values: Any) -> None:
    """First function of a worker. Its values are descriptors, then what `Worker` packed."""
    *descriptors, serve, count, arguments = values
    serve(Connection(descriptors[0]), *descriptors[1 : count + 1], *arguments)


class _Server:
    """The server process, as the program sees it. May be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self.owner = os.getpid()
        self._link, theirs = socket.socketpair()
        life, self._life = os.pipe()
        command = (
            f"import os, sys; sys.path[:] = {sys.path!r}; from vidtune.machine.fork_server import serve; "
            f"serve({theirs.fileno()}, {life}); os._exit(0)"  # `close` waits, and taking modules apart takes 0.2 s
        )
        try:
            with _signals_held():
                self._process = subprocess.Popen(
                    [sys.executable, "-c", command],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), life),
                )
        except OSError as error:
            os.close(self._life)
            self._link.close()
            raise UserError(f"worker processes cannot start ({error.strerror})") from None
        finally:
            theirs.close()
            os.close(life)

    def ask(self, request: tuple[Any, ...], descriptors: Sequence[int] = ()) -> Any:
        """Return the server's answer; None if it has ended."""
        with self._lock:
            self._asked = True
            try:
                send_message(self._link, request, descriptors)
                return receive_message(self._link)[0]
            except (EOFError, OSError):
                return None
            except BaseException:
                self._link.close()  # after half an exchange, the next request would get the answer of this one
                raise

    def tell(self, request: tuple[Any, ...]) -> None:
        """Send a request that has no answer."""
        with self._lock, suppress(OSError):
            send_message(self._link, request)

    def close(self) -> None:
        """End the server and the workers that are left."""
        if self.owner != os.getpid():
            return
        if not self._asked:
            self._process.kill()  # it has no worker, and may be in the middle of an import
        self._link.close()
        os.close(self._life)
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Context manager in which this thread, and a process that it starts, receive no SIGINT and no SIGTERM.

    The server process receives none before it ignores them: Ctrl-C would end it, with a traceback, while it starts.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_server: _Server | None = None
_server_lock = threading.Lock()


def prepare(*modules: str) -> None:
    """Let the server process start and import what workers will need, while the program goes on with other things.

    Raises:
        UserError: the server process cannot be started.
    """
    _running_server().tell(("prepare", modules))


def _running_server() -> _Server:
    """The server; it is started if there is none."""
    global _server
    with _server_lock:
        if _server is None or _server.owner != os.getpid():
            _server = _Server()
            atexit.register(_server.close)
        return _server


def _start(modules: Sequence[str], job: bytes, descriptors: Sequence[int]) -> tuple[_Server, int]:
    """Start a worker; return its server and its process id. The server is started first if there is none."""
    global _server
    for _ in range(2):  # a server that was killed is replaced once
        server = _running_server()
        pid = server.ask(("start", (str(Path.cwd()), sys.path), list(modules), job), descriptors)
        if pid is not None:
            return server, pid
        with _server_lock:
            if _server is server:
                _server = None
    raise UserError("worker processes cannot start: the process that they are forked from ends at once")
