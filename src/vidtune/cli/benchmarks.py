"""``vidtune benchmarks``: the test sets a model can be scored on."""

import typer


def benchmarks() -> None:
    """List the benchmarks and where their questions come from."""
    from vidtune.registry import BENCHMARKS

    for benchmark in BENCHMARKS.values():
        typer.echo(f"{benchmark.name:24} {benchmark.title:18} {benchmark.source}")
