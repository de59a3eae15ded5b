"""``vidtune submit``: the answers of a run as a server takes them, and in an official evaluation folder."""

from pathlib import Path
from typing import Annotated

import typer


def submit(
    run: Annotated[Path, typer.Argument(help="Folder of one evaluation, OUT/BENCHMARK.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="File to upload; default: upload.* in the folder of the run.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            help="Official evaluation folder, such as eval/: answers and upload go where its scripts put them."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model there; default: that of the checkpoint.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="With --into: the judge whose reviews are written; default: the only one.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the test set, where it was moved.")] = None,
) -> None:
    """Write the file of RUN that the server of its benchmark takes, or answers and reviews into an official folder."""
    from vidtune.evaluation.runs.submission import Submission, write_back

    found = Submission(run, data or into)
    if into is None or out is not None:
        typer.echo(f"written: {found.write(out)}, for {found.benchmark.server}")
    for path in write_back(found, model, judge) if into is not None else ():
        typer.echo(f"written: {path}")
    if found.lacking:
        typer.echo(f"{found.lacking} of {found.planned} questions have no answer in it", err=True)
