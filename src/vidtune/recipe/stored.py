"""The recipe beside a result. Its relative paths start from the folder in which the training command ran."""

import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from vidtune.foreign.documents import read_json
from vidtune.recipe.files import RECIPE_FILE, load_recipe
from vidtune.recipe.types import Recipe
from vidtune.recipe.values import A_PLACE, Settings

PROVENANCE = "provenance.json"
"""File beside the recipe that tells where its result comes from."""
FOLDER = "folder"
"""Key of that file: absolute path of the folder in which the training command ran."""


def stored_recipe(folder: Path) -> Recipe | None:
    """Return the recipe beside a result; None if there is none.

    Its relative paths are found from the folder in which the result was trained first, then from the folder of this
    command. Where the former is not known or not there, because the whole project was moved: from the folder of this
    command, then from the folders above the result, the nearest first. A path that is in none of them stays as it is.
    Where a path is in both folders, but is not the same file, a warning says which one was taken.

    Raises:
        UserError: the recipe cannot be read; names file and line.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return None
    recipe = load_recipe(path, expand=False)
    told = read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    start = told.get(FOLDER) if isinstance(told, dict) else None
    if isinstance(start, str) and Path(start).is_dir():
        return found_from(recipe, [Path(start), Path()])
    return found_from(recipe, [Path(), *folder.resolve().parents])


def found_from(recipe: Recipe, starts: Sequence[Path]) -> Recipe:
    """Return the recipe with its relative paths below the first folder of ``starts`` in which they are; those in none
    of them stay as they are. Names of stages are no paths."""
    stages = {stage.name for stage in recipe.stages}

    def found(place: str) -> str:
        if place in stages or Path(place).is_absolute():
            return place
        taken = next((start / place for start in starts if (start / place).exists()), None)
        if taken is None or (Path(place).exists() and taken.samefile(place)):
            return place
        if Path(place).exists():
            warnings.warn(f"{place}: taken from {taken}, where it was trained, not from {Path.cwd()}", stacklevel=2)
        return str(taken)

    return with_places(recipe, lambda _, place: found(place))


def with_places(settings: Any, change: Callable[[str, str], str], key: str = "") -> Any:
    """Return a value of a recipe with every path and hub id in it changed.

    Args:
        change: returns the new place, from the dotted key of the place in the recipe and the old one.
        key: start of these keys.
    """
    changed = {
        name: _changed(getattr(settings, name), field.annotation, field.metadata, change, f"{key}{name}")
        for name, field in type(settings).model_fields.items()
    }
    return settings.model_copy(update=changed)


def _changed(value: Any, kind: Any, marks: Any, change: Callable[[str, str], str], key: str) -> Any:
    """Return a value with the places in it changed, as its type tells.

    Args:
        key: dotted key of the value.
        kind: the annotated type of the value.
        marks: what is attached to that type by ``Annotated``.
    """
    if get_origin(kind) is Annotated:
        kind, *marks = get_args(kind)
    if isinstance(value, str):
        is_place = A_PLACE in marks or any(A_PLACE in get_args(option) for option in _options(kind))
        return change(key, value) if is_place else value
    if isinstance(value, Settings):
        return with_places(value, change, f"{key}.")
    for option in _options(kind):
        inner = get_args(option)
        if get_origin(option) is tuple and isinstance(value, tuple):
            return tuple(_changed(item, inner[0], (), change, f"{key}.{n}") for n, item in enumerate(value))
        if get_origin(option) is dict and isinstance(value, Mapping):
            return {name: _changed(item, inner[1], (), change, f"{key}.{name}") for name, item in value.items()}
    return value


def _options(kind: Any) -> tuple[Any, ...]:
    """The members of a union; the type itself if it is none."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
