"""``vidtune world``: render a synthetic world of videos, annotations and test questions."""

from pathlib import Path
from typing import Annotated

import typer


def world(
    kind: Annotated[str, typer.Argument(help="shapes, events, targets or moments.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=NUMBER]...", help="Size, such as videos=20 test_videos=5; default: the demo's."),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder of the world; files that are there are kept.")],
) -> None:
    """Render a synthetic world with its training annotations, its test set and a tokenizer into a folder."""
    from vidtune.cli.options.loading import assignments
    from vidtune.machine.progress import ProgressDisplay
    from vidtune.recipe.shipped import WORLD_RECIPES
    from vidtune.world import render_world, sized

    world = sized(kind, assignments(settings, "size"))
    with ProgressDisplay(transient=True) as progress:
        render_world(kind, out, progress, world)
    typer.echo(f"written: {out}; DATA_ROOT={out} vidtune train {WORLD_RECIPES[kind]} --out RUN trains on it")
