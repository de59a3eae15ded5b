"""``vidtune recipes``: the recipes that come with the package."""

import os
from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.options.columns import columns
from vidtune.cli.options.recipe import Overrides, RecipeName

recipes = typer.Typer(help="List, show and copy the shipped recipes.", no_args_is_help=True, rich_markup_mode=None)


@recipes.command("list")
def list_all() -> None:
    """Name the shipped recipes with their system and stages."""
    from vidtune.recipe.files import load_recipe
    from vidtune.recipe.shipped import list_recipes

    rows = []
    for name in list_recipes():
        recipe = load_recipe(name, expand=False)
        rows.append((name, recipe.system, " -> ".join(stage.name for stage in recipe.stages)))
    for line in columns(rows):
        typer.echo(line)


@recipes.command()
def show(
    recipe: RecipeName,
    overrides: Overrides = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Write out every default.")] = False,
) -> None:
    """Print a recipe: the file as it is, or resolved; with overrides always resolved."""
    from vidtune.recipe.files import dump_recipe, load_recipe, recipe_file

    if resolved or overrides:
        typer.echo(dump_recipe(load_recipe(recipe, overrides or (), expand=False)), nl=False)
    else:
        typer.echo(recipe_file(recipe).read_text(encoding="utf-8"), nl=False)


@recipes.command()
def copy(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe.")],
    to: Annotated[Path, typer.Argument(help="New file; an existing one is refused.")],
) -> None:
    """Copy a shipped recipe to a file of your own."""
    from vidtune.errors import UserError
    from vidtune.foreign.variables import required
    from vidtune.recipe.files import recipe_file

    target = to / f"{recipe}.yaml" if to.is_dir() else to
    text = recipe_file(recipe).read_text(encoding="utf-8")
    try:
        with target.open("x", encoding="utf-8") as copied:
            copied.write(text)
    except FileExistsError:
        raise UserError(f"{target}: exists already; choose another name") from None
    typer.echo(f"copied to {target}; train it with: vidtune train {target} --out runs/{target.stem}")
    if names := required(text):
        stated = ", ".join(name if os.environ.get(name) is None else f"{name} (set)" for name in names)
        typer.echo(f"it reads these environment variables: {stated}; set them, or write paths in their place")


@recipes.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="File to write; default: print.")] = None,
) -> None:
    """Give the JSON schema of recipes, with which an editor completes, explains and checks their keys."""
    import json

    from vidtune.recipe.json_schema import recipe_schema

    text = json.dumps(recipe_schema(), indent=2)
    if out is None:
        typer.echo(text)
        return
    out.write_text(text + "\n", encoding="utf-8")
    typer.echo(f"written to {out}; put this line at the top of a recipe:\n# yaml-language-server: $schema={out}")
