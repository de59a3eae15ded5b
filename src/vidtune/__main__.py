"""``python -m vidtune`` and the command ``vidtune``; torchrun and Slurm start it as a module."""

import atexit
import gc
import sys


def main() -> None:
    """Run one command and leave the process. Ctrl-C may also come while the modules are loaded."""
    atexit.register(gc.freeze)  # a process that ends need not search all its objects for cycles: a second with a model
    try:
        from vidtune.cli.main import main as command
    except KeyboardInterrupt:
        print("interrupted before it began", file=sys.stderr)
        exec("")  # so that the exit code counts, see `Interrupts.end`
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
