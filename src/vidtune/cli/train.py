"""``vidtune train``: run the stages of a recipe."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example stages.finetune.epochs=0.5 seed=1.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run; a run that is there already goes on.")] = ...,  # type: ignore[assignment]
) -> None:
    """Train all stages of RECIPE in order; the same command resumes."""
    from vidtune.recipe import load_recipe
    from vidtune.training.train import train as run_stages

    final = run_stages(load_recipe(recipe, overrides or ()), out)
    typer.echo(f"trained: {final}")
