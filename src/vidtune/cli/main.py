"""``vidtune``: puts the commands together and turns every mistake of the user into one line and exit code 2.

The command modules import torch, transformers and av inside their functions, so that ``--help`` answers at once.
"""

import errno
import io
import os
import sys
from collections.abc import Sequence

# Idle OpenMP threads that spin take the core from the media workers; must be set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import typer
from typer._click.exceptions import ClickException

from vidtune import __version__
from vidtune.cli.answer import answer
from vidtune.cli.benchmarks import benchmarks
from vidtune.cli.convert import convert
from vidtune.cli.data.group import data
from vidtune.cli.demo import demo
from vidtune.cli.doctor import doctor
from vidtune.cli.evaluate import evaluate
from vidtune.cli.features import features
from vidtune.cli.judge import judge
from vidtune.cli.recipes import recipes
from vidtune.cli.report import report
from vidtune.cli.runs.compare import compare
from vidtune.cli.runs.export import export
from vidtune.cli.runs.submit import submit
from vidtune.cli.serving.chat import chat
from vidtune.cli.serving.serve import serve
from vidtune.cli.systems import systems
from vidtune.cli.terminal.interrupts import INTERRUPTED, SAID, Interrupts
from vidtune.cli.terminal.shown_text import show_error, shown_text
from vidtune.cli.train import train
from vidtune.cli.world import world
from vidtune.errors import UserError
from vidtune.machine.ranks.launch import LaunchFailed
from vidtune.spelling import one_line
from vidtune.training.signals import TrainingInterrupted

WRONG_INPUT = UserError.exit_code
NO_MORE_FILES = os.strerror(errno.EMFILE)
"""As libraries say it in errors of their own."""
MORE_FILES = "; allow more (`ulimit -n`), or use fewer workers"
# Failures of the operating system that the user can mend; any other OSError is a bug and keeps its traceback.
USER_ERRNOS = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.EADDRINUSE,
    errno.EMFILE,
    errno.ENFILE,
    errno.EIO,
    errno.ESTALE,
    errno.ELOOP,
    errno.EFBIG,
}

app = typer.Typer(
    name="vidtune",
    help="Train, run and validate video language models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (
    demo,
    train,
    doctor,
    evaluate,
    judge,
    compare,
    submit,
    report,
    export,
    answer,
    chat,
    serve,
    convert,
    world,
):
    app.command()(command)
app.add_typer(data, name="data")
app.add_typer(features, name="features")
app.add_typer(recipes, name="recipes")
app.command()(systems)
app.add_typer(benchmarks, name="benchmarks")


@app.callback(invoke_without_command=True)
def show_version(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        typer.echo(f"vidtune {__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave the process: 0 done, 2 the user's mistake, 130 interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # an answer may hold what the terminal, or no text at all, can hold
        sys.stdout.reconfigure(errors="backslashreplace")
    with shown_text():
        sys.exit(_interruptible(arguments))


def _interruptible(arguments: Sequence[str] | None) -> int:
    """Run one command; the exit code. Ctrl-C ends it in one line wherever it comes."""
    interrupts = Interrupts()
    try:
        code = run(arguments)
        return INTERRUPTED if interrupts.came and code == WRONG_INPUT else code
    except BaseException as error:
        if not interrupts.came and not isinstance(error, KeyboardInterrupt):
            raise
        print(SAID, file=sys.stderr)
        return INTERRUPTED
    finally:
        interrupts.end()


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        # No text is coloured, and none that looks so is changed: see `terminal.shown_text`.
        code = app(args=given, standalone_mode=False, obj=tuple(given), color=True) or 0
        if code == INTERRUPTED:
            print(SAID, file=sys.stderr)
        return code
    except TrainingInterrupted as error:
        print(error, file=sys.stderr)
        return INTERRUPTED
    except LaunchFailed as error:
        return error.exit_code  # its processes have said why
    except UserError as error:
        show_error(error)
        return error.exit_code
    except ClickException as error:
        error.message = one_line(error.message)
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # The reader has gone, as in `vidtune recipes show x | head`; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in USER_ERRNOS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        advice = MORE_FILES if error.errno in (errno.EMFILE, errno.ENFILE) else ""
        return _refuse(where + (error.strerror or str(error)) + advice)
    except (MemoryError, RuntimeError, ImportError) as error:
        if NO_MORE_FILES in str(error):
            return _refuse(NO_MORE_FILES + MORE_FILES)
        if not _is_out_of_memory(error):
            raise
        said = str(error).partition("\n")[0] or type(error).__name__
        return _refuse(f"out of memory ({said}): compute less at a time, in a smaller dtype, or on a larger machine")
    except ValueError as error:
        if message := _settings_mistake(error):
            return _refuse(message)
        raise


def _refuse(message: str) -> int:
    show_error(UserError(message))
    return WRONG_INPUT


def _is_out_of_memory(error: Exception) -> bool:
    """Whether the machine or a device has no memory left, as Python or torch say it."""
    names = {base.__name__ for base in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator: can't allocate" in str(error)


def _settings_mistake(error: ValueError) -> str | None:
    """The first complaint of a pydantic validation in one line; None for any other ValueError."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not isinstance(error, pydantic.ValidationError):
        return None
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    return f"{error.title}: {key + ': ' if key else ''}{first['msg']}, not {first['input']!r}"
