"""``vidtune benchmarks``: the test sets for models, what their rules differ in, whether one lies on disk in order."""

from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.options.columns import columns
from vidtune.cli.options.loading import assignments

benchmarks = typer.Typer(
    help="List the benchmarks, compare the rules of two, or check a test set.", rich_markup_mode=None
)


@benchmarks.callback(invoke_without_command=True)
def listed(context: typer.Context) -> None:
    """List the benchmarks and where their questions come from. ``check`` looks at a test set on disk, ``compare`` at
    the rules of two benchmarks."""
    from vidtune.registry import BENCHMARKS

    if context.invoked_subcommand is None:
        for line in columns([(each.name, each.title, each.source) for each in BENCHMARKS.values()]):
            typer.echo(line)


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
    name: Annotated[str, typer.Argument(help="Name of the benchmark.")],
    data: Annotated[Path, typer.Option(help="Folder of the test set, or one that holds several.")],
    features: Annotated[
        list[str] | None,
        typer.Option(metavar="STREAM=DIR", help="Stored features in the place of videos; one option per stream."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say which videos of a test set are there, what is near to those that are not, and what is odd in its questions.

    Opens no video and no model. The exit code is 2 if no question can be asked.
    """
    from vidtune.errors import UserError
    from vidtune.evaluation.benchmarks.check import check_test_set
    from vidtune.evaluation.evaluate import VIDEO_STREAM
    from vidtune.registry import BENCHMARKS

    folders = {stream: Path(folder) for stream, folder in assignments(features, "--features").items()}
    found = check_test_set(BENCHMARKS[name], data, folders, VIDEO_STREAM)
    typer.echo(found.json() if as_json else "\n".join(found.lines()))
    if not found.usable:
        raise UserError(f"{found.folder}: no question of {name} can be asked: no video is there")
