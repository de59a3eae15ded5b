"""``vidtune chat`` in a process whose terminal a test holds."""

import fcntl
import os
import signal
import sys
import termios
from contextlib import suppress


def chat(terminal: str, *arguments: str) -> int:
    """Run the command at a terminal, such as ``/dev/pts/3``."""
    from vidtune.cli.main import main

    with suppress(PermissionError):  # it leads a session already
        os.setsid()
    opened = os.open(terminal, os.O_RDWR)
    fcntl.ioctl(opened, termios.TIOCSCTTY, 0)
    for descriptor in range(3):
        os.dup2(opened, descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main(["chat", *arguments])
    except SystemExit as left:
        return int(left.code or 0)
    return 0
