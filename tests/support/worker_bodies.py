"""Functions that run in worker processes of the tests."""

import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path


def echo(connection: Connection, *values: object) -> None:
    """Send back the values and the process's state, then each message, until the parent is gone."""
    connection.send((values, os.getpid(), str(Path.cwd()), sys.path, sys.modules["__main__"].__dict__.get("MARK")))
    while True:
        try:
            connection.send(connection.recv())
        except EOFError:
            return


def write_to(connection: Connection, descriptor: int, text: str) -> None:
    os.write(descriptor, text.encode())


def hang(connection: Connection) -> None:
    connection.send(os.getpid())
    while True:
        time.sleep(60)


def double(folder: str, number: int) -> None:
    if number < 0:
        raise ValueError(f"piece {number}")
    (Path(folder) / str(number)).write_text(f"{2 * number} {os.getpid()}")


def die(number: int) -> None:
    os._exit(3)


def die_once(folder: str, number: int) -> None:
    """Each piece kills its first worker."""
    path = Path(folder, str(number))
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def modules_of(connection) -> None:
    connection.send(list(sys.modules))
