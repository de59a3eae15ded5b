"""``vidtune data convert``: annotations in another form."""

from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.terminal.shown_text import show_line


def convert(
    source: Annotated[Path, typer.Argument(help="Annotation file of any form.")],
    target: Annotated[Path, typer.Argument(help="File to write: *.json, *.jsonl, *.csv or *.tsv.")],
    form: Annotated[
        str | None, typer.Option(help="conversations, messages or table; default: that of the ending.")
    ] = None,
    media: Annotated[
        Path | None, typer.Option(help="Media folder; absolute paths below it become relative ones.")
    ] = None,
) -> None:
    """Write annotations in another form: the same samples, which train in the same order.

    Records of a wrong form are named, each with its line, and left out; the exit code is 2 then.
    """
    from vidtune.data.writing.annotations import convert as write
    from vidtune.errors import UserError
    from vidtune.spelling import counted

    done = write(source, target, form, media)
    typer.echo(f"{target}: {counted(done.count, 'record')} as {done.form}")
    for identity, problem in done.problems:
        show_line(f"  left out{f' ({identity})' if identity else ''}: {problem}")
    if done.problems:
        raise UserError(f"{source}: {counted(len(done.problems), 'record')} left out, named above")
