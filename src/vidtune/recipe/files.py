"""Files of recipes: shipped ones by name, others by path; read with overrides, and written."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from vidtune.errors import UserError
from vidtune.foreign.yaml_document import read_yaml
from vidtune.recipe.mistakes import explain
from vidtune.recipe.overrides import override
from vidtune.recipe.shipped import list_recipes, recipe_path
from vidtune.recipe.types import Recipe

RECIPE_FILE = "recipe.yaml"
"""Name of the recipe that is stored with a run and with its results."""


def load_recipe(
    name_or_path: str | Path,
    overrides: Sequence[str] = (),
    expand: bool = True,
    variables: Mapping[str, str] | None = None,
) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: name of a shipped recipe, or path of a file.
        overrides: ``key=value`` strings; stages are addressed by name or index: ``stages.finetune.epochs=0.5``.
        expand: False: keep ``${NAME}`` as text where the variable is not set, to show a recipe without its data.
        variables: values of ``${NAME}``; None: the process environment.

    Raises:
        UserError: wrong syntax, unknown key (names the nearest), wrong value, variable that is not set; with file, line
            and column.
    """
    document = read_yaml(recipe_file(name_or_path), variables)
    if not isinstance(document.value, dict):
        raise UserError(f"{name_or_path}: a recipe is a mapping that starts with system: NAME")
    for assignment in overrides:
        override(document, assignment)
    try:
        recipe = Recipe.model_validate(document.value)
    except ValidationError as error:
        if expand and not any(problem["type"] == "extra_forbidden" for problem in error.errors()):
            document.require_set()
        raise UserError(explain(error, document, Recipe)) from error
    if expand:
        document.require_set()
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """Returns the recipe as YAML with all defaults; `load_recipe` reads it back to an equal value."""
    values = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def recipe_file(name_or_path: str | Path) -> Path:
    """Returns the path of a shipped recipe, or of the file itself; raises UserError if neither exists."""
    path = Path(name_or_path).expanduser()
    if str(name_or_path) in list_recipes():
        return recipe_path(str(name_or_path))
    if path.suffix in (".yaml", ".yml") or "/" in str(name_or_path):
        if path.is_dir():
            beside = f"; did you mean {path / RECIPE_FILE}" if (path / RECIPE_FILE).is_file() else ""
            raise UserError(f"{path}: is a folder, not a recipe file{beside}")
        if path.exists():
            return path
        raise UserError(f"{path}: there is no such recipe file; vidtune recipes list names the shipped ones")
    return recipe_path(str(name_or_path))
