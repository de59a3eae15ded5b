"""The recipes that come with the package: one YAML file each, named after the file."""

from importlib.resources import files
from pathlib import Path

from vidtune.errors import UserError
from vidtune.spelling import suggestion

DEMO_RECIPE = "video_llava_tiny"
WORLD_RECIPES = {"shapes": DEMO_RECIPE, "events": "longvale_tiny"}
"""For each synthetic world the recipe that was made for it: its prompts are what the world's tokenizer knows."""


def list_recipes() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml")
    )


def recipe_path(name: str) -> Path:
    """The file of a shipped recipe.

    Raises:
        UserError: no recipe has this name; names the nearest.
    """
    if name not in list_recipes():
        raise UserError(f"unknown recipe {name!r}; {suggestion(name, list_recipes())} (a file is given by its path)")
    return Path(str(files(__name__) / f"{name}.yaml"))
