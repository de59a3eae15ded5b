"""``vidtune export``: runs for other programs: rows of questions, tables of scores, logs of inspect."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.terminal.shown_text import show_line
from vidtune.errors import UserError


class Form(StrEnum):
    """What runs are written as."""

    INSPECT = "inspect"
    CSV = "csv"
    PARQUET = "parquet"
    LATEX = "latex"
    MARKDOWN = "markdown"


def export(
    run: Annotated[list[Path], typer.Argument(help="Folders of scored runs, OUT/BENCHMARK.")],
    to: Annotated[
        Form,
        typer.Option(
            help="csv, parquet: a row per question. latex, markdown: a table of scores. inspect: a log a run."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write; of inspect also a folder. Default of a table: print it.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Whose verdicts; default: who scored most of the runs.")] = None,
    types: Annotated[bool, typer.Option("--types", help="Of a table: also the numbers of each question type.")] = False,
    intervals: Annotated[bool, typer.Option(help="Of a table: with intervals.")] = True,
    published: Annotated[
        bool, typer.Option("--published", help="Of a table: with published scores, and what the runs do differently.")
    ] = False,
) -> None:
    """Write scored runs as CSV, Parquet, a table in LaTeX or Markdown, or logs that the viewer of inspect opens."""
    from vidtune.evaluation.export.inspect_log import write_inspect_log
    from vidtune.evaluation.export.rows import rows_of_run, write_csv, write_parquet
    from vidtune.evaluation.export.score_tables import latex, markdown, score_table
    from vidtune.evaluation.runs.folder import RunFolder
    from vidtune.evaluation.runs.manifest import missing_parts
    from vidtune.evaluation.scores.comparison import judge_of
    from vidtune.machine.files import write_text_atomically

    runs = [RunFolder(path) for path in run]
    judges = [judge_of(one, runs, judge) for one in runs]
    for one in runs:
        for line in missing_parts(one):
            show_line(f"{one.path}: {line}", err=True)
    if to in (Form.LATEX, Form.MARKDOWN):
        write = latex if to is Form.LATEX else markdown
        text = write(score_table(runs, judges, types, published), intervals)
        if out is None:
            typer.echo(text, nl=False)
            return
        write_text_atomically(out, text)
    elif out is None:
        raise UserError(f"--to {to} writes a file: name it with --out")
    elif to is Form.INSPECT:
        if out.suffix == ".eval" and len(runs) > 1:
            raise UserError(f"{out}: a log holds one run, {len(runs)} are given; name a folder with --out")
        for one, name in zip(runs, judges, strict=True):
            typer.echo(f"written: {write_inspect_log(one, name, out)}")
        return
    else:
        rows = [row for one, name in zip(runs, judges, strict=True) for row in rows_of_run(one, name)]
        (write_csv if to is Form.CSV else write_parquet)(rows, out)
    typer.echo(f"written: {out}")
