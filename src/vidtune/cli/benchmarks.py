"""``vidtune benchmarks``: the test sets a model can be scored on."""

import typer


def benchmarks() -> None:
    """List the benchmarks and where their questions come from."""
    from vidtune.evaluation.benchmarks import list_benchmarks

    for benchmark in list_benchmarks():
        typer.echo(f"{benchmark.name:24} {benchmark.title:18} {benchmark.source}")
