"""``vidtune benchmarks``: the test sets for models, what their rules differ in, whether one lies on disk in order."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.options.columns import columns
from vidtune.cli.options.loading import assignments
from vidtune.cli.terminal.shown_text import show_line

benchmarks = typer.Typer(
    help="List the benchmarks, compare the rules of two, check or prepare a test set.", rich_markup_mode=None
)


@benchmarks.callback(invoke_without_command=True)
def listed(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Option(help="Folder that holds the test sets: say which of them are there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """List the benchmarks: size, what scores them, where the questions come from, what must be downloaded and where it
    goes below the folder given with ``--data``. "counted" says where the numbers are from; "?" is one that no source
    states.

    ``check`` looks at a test set on disk, ``prepare`` makes files that its scripts make of a download, ``compare``
    looks at the rules of two benchmarks."""
    if context.invoked_subcommand is not None:
        return
    from vidtune.evaluation.benchmarks.check import listed as as_listed
    from vidtune.evaluation.benchmarks.check import state_of_test_set
    from vidtune.registry import BENCHMARKS

    found = [as_listed(benchmark) for _, benchmark in BENCHMARKS.usable()]
    states = [[] if data is None else [state_of_test_set(BENCHMARKS[one.name], data)] for one in found]
    if as_json:
        values = [
            {**asdict(one), **({"state": state[0]} if state else {})} for one, state in zip(found, states, strict=True)
        ]
        typer.echo(json.dumps(values, ensure_ascii=False, indent=1))
        return
    sizes = ["" if one.facts is None else one.facts.size for one in found]
    rows = [
        (one.name, one.title, size, f"scored by {one.scored_by}", *state)
        for one, size, state in zip(found, sizes, states, strict=True)
    ]
    for line, one in zip(columns(rows), found, strict=True):
        typer.echo("\n".join([line, *one.lines()]))


@benchmarks.command()
def compare(
    first: Annotated[str, typer.Argument(help="Name of a benchmark.")],
    second: Annotated[str, typer.Argument(help="Name of another one, such as a second record of the same test set.")],
    system: Annotated[str | None, typer.Option(help="With the rules for this system.")] = None,
) -> None:
    """Say in which rules two benchmarks differ: of their protocols, and of scoring."""
    from vidtune.evaluation.benchmarks.measured import MeasuredBenchmark
    from vidtune.evaluation.protocol import differences
    from vidtune.registry import BENCHMARKS, SYSTEMS

    rules = []
    for benchmark in (BENCHMARKS[first], BENCHMARKS[second]):
        prompt = "" if system is None else SYSTEMS[system].dialect.answering_prompt
        changes = {} if system is None else benchmark.system_rules.get(system, {})
        protocol = benchmark.protocol(prompt_format=prompt).with_overrides(changes, f"system {system}")
        scoring = benchmark.measuring if isinstance(benchmark, MeasuredBenchmark) else {}
        rules.append({**protocol.model_dump(mode="json"), "scoring": scoring})
    for key, (one, other) in differences(*rules).items():
        typer.echo(f"{key}\n  {first}: {one!r}\n  {second}: {other!r}")


@benchmarks.command()
def check(
    name: Annotated[str, typer.Argument(help="Name of the benchmark, or a test set of your own (mine.jsonl).")],
    folder: Annotated[Path | None, typer.Argument(help="The same as --data.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the test set, or one that holds several; of your own: of its media.")
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(metavar="STREAM=DIR", help="Stored features in the place of videos; one option per stream."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say which videos or pictures of a test set are there, what is near to others, and what is odd in its questions.

    Opens no video and no model. The exit code is 2 if no question can be asked.
    """
    from vidtune.errors import UserError
    from vidtune.evaluation.benchmarks.check import check_test_set
    from vidtune.evaluation.benchmarks.own.finding import benchmark_named
    from vidtune.evaluation.evaluate import data_folder

    folders = {stream: Path(folder) for stream, folder in assignments(features, "--features").items()}
    found = check_test_set(benchmark_named(name), data_folder(name, data or folder), folders)
    if as_json:
        typer.echo(found.json())
    else:
        for line in found.lines():
            show_line(line)
    if not found.usable:
        raise UserError(f"{found.folder}: no question of {name} can be asked: no {found.medium[:-1]} is there")


@benchmarks.command()
def prepare(
    name: Annotated[str, typer.Argument(help="Name of the benchmark.")],
    data: Annotated[Path, typer.Option(help="Folder of the test set, or one that holds several.")],
) -> None:
    """Make files that the published scripts make of a download, such as the middle frames of videos.

    What is there already is left as it is, so that a command that was stopped can be repeated. The exit code is 2 if
    something cannot be made; the rest is made all the same.
    """
    from vidtune.errors import UserError
    from vidtune.machine.progress import ProgressDisplay
    from vidtune.registry import BENCHMARKS

    problems = 0
    with ProgressDisplay(transient=True) as display:
        for problem in BENCHMARKS[name].prepare(data, display):
            problems += 1
            show_line(problem)
    if problems:
        raise UserError(f"{name}: {problems} files could not be made")
