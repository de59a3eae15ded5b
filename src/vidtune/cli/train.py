"""``vidtune train``: run the stages of a recipe."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; one of the same recipe goes on, another is refused.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as stages.finetune.epochs=0.5 or seed=1.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Of torch; default: a GPU when there is one.")] = None,
) -> None:
    """Train all stages of RECIPE in order; the same command resumes."""
    from vidtune.recipe import load_recipe
    from vidtune.training.run import train as run_stages

    final = run_stages(load_recipe(recipe, overrides or ()), out, device=device)
    typer.echo(f"trained: {final}")
