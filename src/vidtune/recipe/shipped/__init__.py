"""Recipes that are part of the package: one YAML file per recipe, named after the file."""

from importlib.resources import files
from pathlib import Path

from vidtune.errors import UserError
from vidtune.spelling import suggestion

DEMO_RECIPE = "video_llava_tiny"
WORLD_RECIPES = {
    "shapes": DEMO_RECIPE,
    "events": "longvale_tiny",
    "targets": "artemis_tiny",
    "moments": "videochat_flash_tiny",
}
"""For each synthetic world, the recipe that was made for it; the world's tokenizer is trained on its prompts."""


def list_recipes() -> list[str]:
    """Returns the names of the shipped recipes, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml")
    )


def recipe_path(name: str) -> Path:
    """Returns the path of a shipped recipe.

    Raises:
        UserError: no recipe has this name; the message names the nearest.
    """
    if name not in list_recipes():
        raise UserError(f"unknown recipe {name!r}; {suggestion(name, list_recipes())} (a file is given by its path)")
    return Path(str(files(__name__) / f"{name}.yaml"))
