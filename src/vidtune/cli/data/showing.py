"""``vidtune data show``: one page with what the model sees of a training sample."""

from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.options.recipe import Overrides, RecipeName
from vidtune.cli.terminal.shown_text import warn


def show(
    recipe: RecipeName,
    overrides: Overrides = None,
    sample: Annotated[
        str | None, typer.Option(help="Its id in the annotation file, or FILE:INDEX; default: the first one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("sample.html"),
    stage: Annotated[str | None, typer.Option(help="Of this stage; default: the first that has the sample.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames shown of each medium.")] = 32,
) -> None:
    """Write one HTML page with what the model sees of a sample: frames, text, tokens and which of them are supervised,
    boxes, moments."""
    from vidtune.recipe.files import load_recipe
    from vidtune.recipe.mistakes import of_recipe
    from vidtune.training.inspection.sample_page import write_sample_page
    from vidtune.training.inspection.shown_sample import shown_sample

    loaded = load_recipe(recipe, overrides or ())
    with of_recipe(recipe):
        shown = shown_sample(loaded, sample, stage=stage, frames=frames)
    for item in shown.items:
        if item.problem:
            warn(f"{item.path}: {item.problem}")
    typer.echo(f"written: {write_sample_page(shown, out)}")
