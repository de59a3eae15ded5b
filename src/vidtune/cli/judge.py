"""``vidtune judge``: judge or measure stored predictions again, or those that another program has written."""

from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.options.groups import option_groups
from vidtune.cli.options.judging import CACHE, JudgeOptions, Scoring, count_earlier, judge_and_score, keep_replies
from vidtune.cli.terminal.shown_text import show_line
from vidtune.errors import UserError

OFFLINE = "rules"
"""The judge where none is named."""


@option_groups
def judge(
    run: Annotated[
        list[Path],
        typer.Argument(
            help="Folder of one evaluation, OUT/BENCHMARK, or a log of published scripts, file or folder; repeatable."
        ),
    ],
    *,
    benchmark: Annotated[
        str | None,
        typer.Option(help="Of a log, or a test set of your own (mine.jsonl); its run goes to a folder beside it."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the test set, for a log.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Folder of a published judge script, ID.json each: taken as judgements of --judge NAME."),
    ] = None,
    judging: JudgeOptions,
) -> None:
    """Judge or measure the stored predictions of RUN and print the scores; no judgement is asked for twice."""
    if results is not None:
        _take_results(run, results, judging.judge)
        return
    folders = [_imported(path, benchmark, data) if _is_log(path, benchmark) else path for path in run]
    scoring = Scoring()
    judge = judging.build(folders[0].parent / CACHE)
    count_earlier(judge, folders)
    for folder in folders:
        keep_replies(judge, folder.parent / CACHE)
        with scoring.of_one():
            if scoring.goes_on(folder):
                judge_and_score(folder, judge)
            else:
                typer.echo(f"{folder}: not judged, the judge was given up")
    scoring.end()


def _take_results(runs: list[Path], results: Path, judge: str) -> None:
    """Store results of a published judge script as the judgements of a run, and print its score."""
    from vidtune.evaluation.runs.official_results import adopt_official_results

    if len(runs) != 1 or judge == OFFLINE:
        raise UserError("--results: give one run, and by --judge the name of the model that made the results")
    found, stored = adopt_official_results(runs[0], results, judge)
    typer.echo(f"{results}: {found} of its results are about answers of {runs[0]}, {stored} of them new")
    judge_and_score(runs[0], judge)


def _is_log(path: Path, benchmark: str | None) -> bool:
    """Whether a path is a log of another program, not a run: a file, or a folder of which the benchmark is told."""
    from vidtune.evaluation.runs.run_info import RUN_FILE

    return path.is_file() or (benchmark is not None and path.is_dir() and not (path / RUN_FILE).is_file())


def _imported(log: Path, benchmark: str | None, data: Path | None) -> Path:
    """A log file as a run, in a folder of its name."""
    from vidtune.evaluation.evaluate import data_folder
    from vidtune.evaluation.runs.official_log import import_log
    from vidtune.evaluation.runs.run_ledger import ledger_of

    if benchmark is None:
        raise UserError(f"{log}: a file of answers needs --benchmark and --data, the folder of its test set")
    run = import_log(log, benchmark, data_folder(benchmark, data), log.with_name(f"{log.stem}-{Path(benchmark).stem}"))
    typer.echo(f"{run.path}: {ledger_of(run)}, in {log.name}")
    for note in run.import_notes():
        show_line(f"  {note}")
    return run.path
