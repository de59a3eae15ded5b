"""``vidtune compare``: what two or more runs of a benchmark differ in, and how sure that is."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vidtune.errors import UserError


def compare(
    run: Annotated[
        list[Path], typer.Argument(help="Folders of scored runs, OUT/BENCHMARK; the first is compared with the others.")
    ],
    judge: Annotated[
        str | None, typer.Option(help="Whose verdicts are compared; default: who scored most of the runs.")
    ] = None,
    judges: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Compare two judges of the same answers instead, in each RUN; one will do."),
    ] = None,
    changed: Annotated[int, typer.Option(min=0, help="Changed questions that are shown.")] = 5,
    draws: Annotated[int, typer.Option(min=0, help="Draws of the bootstrap over videos; 0: none.")] = 10_000,
    published: Annotated[
        bool, typer.Option("--published", help="Also published scores, and what RUN does differently; one RUN will do.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparisons as JSON, whole.")] = False,
) -> None:
    """Compare the first RUN with every other one: differences with intervals over the questions of both, questions
    whose answer changed, and in which fields the runs differ. With --judges: agreement of two judges."""
    from vidtune.evaluation.published import published_lines
    from vidtune.evaluation.runs.folder import RunFolder
    from vidtune.evaluation.runs.manifest import missing_parts
    from vidtune.evaluation.scores.comparison import compare_with_first, judge_of
    from vidtune.evaluation.scores.comparison_lines import comparison_lines
    from vidtune.evaluation.scores.score_file import read_current_score

    if judges is not None:
        if judge is not None or published:
            raise UserError("--judges compares judges of one run; leave out --judge and --published")
        _compare_judges(run, *judges, changed, draws, as_json)
        return
    folders = [RunFolder(path) for path in run]
    comparisons = [] if published and len(run) == 1 else compare_with_first(run, judge, draws)
    for one in folders:
        for line in missing_parts(one):
            typer.echo(f"{one.path}: {line}", err=True)
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in comparisons], indent=1, ensure_ascii=False))
        return
    for line in comparison_lines(comparisons, changed) if comparisons else ():
        typer.echo(line)
    if published:
        score = read_current_score(folders[0], judge_of(folders[0], folders, judge))
        typer.echo("\n".join([*([""] if comparisons else []), *published_lines(folders[0], score)]))


def _compare_judges(runs: Sequence[Path], first: str, second: str, shown: int, draws: int, as_json: bool) -> None:
    from vidtune.evaluation.scores.agreement_lines import agreement_lines
    from vidtune.evaluation.scores.judge_agreement import compare_judges

    found = [compare_judges(path, first, second, draws) for path in runs]
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in found], indent=1, ensure_ascii=False))
        return
    for one in found:
        typer.echo("\n".join(agreement_lines(one, shown)))
