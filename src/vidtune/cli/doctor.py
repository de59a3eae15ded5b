"""``vidtune doctor``: run a few steps and report what slows training down."""

from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.options.recipe import Overrides, RecipeName


def doctor(
    recipe: RecipeName,
    overrides: Overrides = None,
    stage: Annotated[str | None, typer.Option(help="The stage to look at; default: the first.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps to measure.")] = 8,
    device: Annotated[str | None, typer.Option(help="Device of torch; default: a GPU if there is one.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run: what was counted there is used; nothing is trained there.")
    ] = None,
) -> None:
    """Run a few steps of a stage of RECIPE, show what takes the time, and say what to change."""
    from vidtune.recipe.files import load_recipe
    from vidtune.recipe.mistakes import of_recipe
    from vidtune.training.inspection.advice import describe
    from vidtune.training.inspection.doctor import examine

    loaded = load_recipe(recipe, overrides or ())
    with of_recipe(recipe):
        found = examine(loaded, stage=stage, steps=steps, device=device, out=out)
    typer.echo(describe(found))
