"""``vidtune compare``: what two or more runs of a benchmark differ in, and how sure that is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidtune.cli.options.asking import ModelOptions
from vidtune.cli.options.groups import option_groups
from vidtune.cli.terminal.shown_text import show_line
from vidtune.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vidtune.evaluation.explaining.worth import Worth
    from vidtune.evaluation.models.base import EvaluatedModel


@dataclass(frozen=True)
class WhyOptions:
    """The options that ask again with one rule changed at a time."""

    why: Annotated[
        bool,
        typer.Option("--why", help="Ask A again with each rule that B has otherwise, alone: what each is worth."),
    ] = False
    limit: Annotated[int, typer.Option(min=1, help="With --why: the first questions that are asked.")] = 200
    checkpoint: Annotated[
        str | None, typer.Option(help="With --why: folder or hub id; default: where it was when A was asked.")
    ] = None
    data: Annotated[
        Path | None, typer.Option(help="With --why: folder of the test set; default: where it was when A was asked.")
    ] = None
    out: Annotated[Path | None, typer.Option(help="With --why: folder of its runs; default: why/ beside A.")] = None
    workers: Annotated[int, typer.Option(min=0, help="With --why: processes that decode videos.")] = 2

    def worth(self, runs: list[Path], model: ModelOptions, judge: str | None) -> "Iterator[Worth]":
        """What each rule is worth, as soon as it is known.

        Raises:
            UserError: not two runs, or see `explaining.worth.explain`.
        """
        from vidtune.checkpoints.files.hub import locate
        from vidtune.evaluation.checkpoint import AnsweringOptions
        from vidtune.evaluation.explaining.worth import explain
        from vidtune.evaluation.runs.folder import RunFolder
        from vidtune.evaluation.scores.comparison import judge_of
        from vidtune.machine.ranks.place import ProcessPlace

        if len(runs) != 2:
            raise UserError("--why takes two run folders, A and B")
        folders = [RunFolder(path) for path in runs]
        info, place = folders[0].info, ProcessPlace.from_environment()
        if info.system == "endpoint":
            raise UserError(f"{runs[0]}: was answered behind an endpoint; --why asks checkpoints again")
        of_transformers = (info.system or "").startswith("transformers:")

        def opened(dtype: str | None) -> "EvaluatedModel":
            options = replace(model, dtype=model.dtype or dtype, transformers=model.transformers or of_transformers)
            return options.open(locate(self.checkpoint or info.checkpoint.path), place)

        out = self.out or runs[0].parent / "why" / runs[0].name
        name, answering = judge_of(folders[0], folders, judge), AnsweringOptions(workers=self.workers)
        return explain(runs[0], runs[1], opened, out, limit=self.limit, judge=name, data=self.data, answering=answering)


@option_groups
def compare(
    run: Annotated[
        list[Path], typer.Argument(help="Folders of scored runs, OUT/BENCHMARK; the first is compared with the others.")
    ],
    asked_again: WhyOptions,
    model: ModelOptions,
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
    whose answer changed, and in which fields the runs differ. With --judges: agreement of two judges.

    With --why A B: what each rule by which B differs is worth in points, measured on the first questions."""
    if asked_again.why:
        _why(asked_again, run, model, judge, as_json)
        return
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
            show_line(f"{one.path}: {line}", err=True)
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in comparisons], indent=1, ensure_ascii=False))
        return
    for line in comparison_lines(comparisons, changed) if comparisons else ():
        show_line(line)
    if published:
        score = read_current_score(folders[0], judge_of(folders[0], folders, judge))
        for line in [*([""] if comparisons else []), *published_lines(folders[0], score)]:
            show_line(line)


def _compare_judges(runs: Sequence[Path], first: str, second: str, shown: int, draws: int, as_json: bool) -> None:
    from vidtune.evaluation.scores.agreement_lines import agreement_lines
    from vidtune.evaluation.scores.judge_agreement import compare_judges

    found = [compare_judges(path, first, second, draws) for path in runs]
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in found], indent=1, ensure_ascii=False))
        return
    for one in found:
        for line in agreement_lines(one, shown):
            show_line(line)


def _why(asked: WhyOptions, runs: list[Path], model: ModelOptions, judge: str | None, as_json: bool) -> None:
    from vidtune.evaluation.explaining.worth_lines import worth_lines, worth_record

    found = asked.worth(runs, model, judge)
    if as_json:
        typer.echo(json.dumps([worth_record(one) for one in found], indent=1, ensure_ascii=False))
        return
    for line in worth_lines(found, runs[0], runs[1], asked.limit):
        show_line(line)
