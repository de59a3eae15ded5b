"""Program of the process that worker processes are forked from. It is started and asked by `vidtune.machine.workers`.

It has imported the libraries that workers need, so a new worker starts in hundredths of a second. It is a fresh
process, no fork of the program: it holds no CUDA context, no threads and no open files of the program, and it never
runs the program's main module.

Protocol, over a Unix socket. Each request is a pickled tuple:

- ``("start", places, modules, job)`` with file descriptors: take over ``places`` (working directory and ``sys.path`` of
  the program), import the modules, fork, and in the child unpickle ``job``, a function and its arguments, and call it
  with the descriptors. Answer: the process id.
- ``("prepare", modules)``: import the modules, which workers will need. No answer.
- ``("reap", pid, seconds)``: wait up to so long for the end of a worker. Answer: its exit code (minus the signal that
  ended it) or None.

When the program ends, however it ends, the server kills the workers that are left, and ends too.
"""

import gc
import importlib
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

MAX_DESCRIPTORS = 16
HELD_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LENGTH = struct.Struct("<Q")
_POLL_SECONDS = 0.002


def send_message(link: socket.socket, value: Any, descriptors: Sequence[int] = ()) -> None:
    """Send a picklable value and open files."""
    data = pickle.dumps(value)
    socket.send_fds(link, [_LENGTH.pack(len(data))], list(descriptors))
    link.sendall(data)


def receive_message(link: socket.socket) -> tuple[Any, list[int]]:
    """Receive a value and open files.

    Raises:
        EOFError: the other end is closed.
    """
    head, descriptors, _, _ = socket.recv_fds(link, _LENGTH.size, MAX_DESCRIPTORS)
    if not head:
        raise EOFError
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    head += _receive_bytes(link, _LENGTH.size - len(head))
    return pickle.loads(_receive_bytes(link, _LENGTH.unpack(head)[0])), descriptors


def _receive_bytes(link: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = link.recv(min(count - len(data), 2**20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def serve(link_descriptor: int, life_descriptor: int) -> None:
    """Body of the server.

    Args:
        link_descriptor: socket to the program.
        life_descriptor: read end of a pipe whose write end only the program holds.
    """
    # Ctrl-C reaches every process of the terminal, and Slurm signals all of a job: the program decides what ends.
    for number in HELD_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)  # the program has started this process with them blocked
    link = socket.socket(fileno=link_descriptor)
    running: set[int] = set()
    gc.disable()  # it only imports modules, which stay
    try:
        while True:
            (kind, *request), descriptors = receive_message(link)
            if kind == "start":
                (folder, sys.path[:]), modules, job = request
                with suppress(OSError):  # a folder that was removed
                    os.chdir(folder)
                pid = _fork(link, life_descriptor, modules, job, descriptors)
                running.add(pid)
                send_message(link, pid)
            elif kind == "prepare":
                _import(*request)
            else:
                pid, seconds = request
                code = _reap(pid, seconds)
                if code is not None:
                    running.discard(pid)
                send_message(link, code)
    except (EOFError, OSError):
        pass
    finally:
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _fork(link: socket.socket, life: int, modules: Sequence[str], job: bytes, descriptors: Sequence[int]) -> int:
    """Start a worker and return its process id."""
    _import(modules)
    gc.freeze()  # the collector of a worker does not touch, and so copy, the memory that it shares with the server
    pid = os.fork()
    if pid:
        for descriptor in descriptors:
            os.close(descriptor)
        return pid
    code = 1
    try:
        link.close()
        gc.enable()
        _run_worker(life, job, descriptors)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        with suppress(ImportError):  # the worker meets the same error, and tells
            importlib.import_module(module)


def _run_worker(life: int, job: bytes, descriptors: Sequence[int]) -> None:
    threading.Thread(target=_leave_with_program, args=(life,), daemon=True).start()
    work, arguments = pickle.loads(job)
    work(*descriptors, *arguments)


def _leave_with_program(life: int) -> None:
    """End a worker, also one that is stuck in a file, when the program is gone."""
    while os.read(life, 1):
        pass
    os._exit(1)


def _reap(pid: int, seconds: float) -> int | None:
    """Return the exit code of a worker; None if it still runs after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return None
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_SECONDS)
