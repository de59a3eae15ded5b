"""``python -m vidtune`` and the command ``vidtune``; torchrun and Slurm start it as a module."""

import atexit
import gc
import os
import sys
from contextlib import suppress


class _End:
    """Last function that Python calls when the process ends: threads have ended, and all that was registered is done.

    After a command that ended by itself it leaves at once. Python would take all objects apart, one by one: 0.3 s where
    a model was loaded. It does not where functions were registered before, which come after it.

    Attributes:
        code: exit code of the command; None: an error goes on to its traceback.
        is_last: whether nothing was registered before.
    """

    code: object = None

    def __init__(self) -> None:
        self.is_last = getattr(atexit, "_ncallbacks", lambda: 1)() == 0

    def __call__(self) -> None:
        gc.freeze()  # otherwise Python searches all objects for cycles first: a second with a model
        if self.is_last and isinstance(self.code, int):
            with suppress(OSError, ValueError):  # Python says what could not be written
                for stream in (sys.stdout, sys.stderr):
                    if stream is not None:
                        stream.flush()
                os._exit(self.code)


def program() -> None:
    """The program ``vidtune``: its process ends with the command."""
    end = _End()
    atexit.register(end)  # before all others, so that it is called after them
    try:
        main()
    except SystemExit as left:
        end.code = left.code
        raise


def main() -> None:
    """Run one command, and raise SystemExit. Ctrl-C may also come while the modules are loaded."""
    try:
        from vidtune.cli.main import main as command
    except KeyboardInterrupt:
        print("interrupted before it began", file=sys.stderr)
        exec("")  # so that the exit code counts, see `Interrupts.end`
        sys.exit(130)
    command()


if __name__ == "__main__":
    program()
