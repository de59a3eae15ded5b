"""``vidtune report``: a page to look at runs with."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[list[Path], typer.Argument(help="Folders of scored runs, OUT/BENCHMARK; several are compared.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    judge: Annotated[str | None, typer.Option(help="Whose verdicts are shown; default: who scored most runs.")] = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Evaluation report",
    samples: Annotated[int, typer.Option(min=1, help="Questions shown per test set.")] = 10_000,
    pictures: Annotated[int, typer.Option(min=0, help="Videos and pictures per test set shown with frames.")] = 120,
    frames: Annotated[int, typer.Option(min=1, help="Frames shown per video.")] = 4,
) -> None:
    """Write one HTML page: scores with intervals, plots, comparisons, frames, questions, answers and verdicts."""
    from vidtune.evaluation.report.page import build_report
    from vidtune.evaluation.report.samples import Limits

    page = build_report(run, out, judge=judge, title=title, limits=Limits(samples, pictures, frames))
    typer.echo(f"written: {page}")
