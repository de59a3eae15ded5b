"""The output folder of a run: which recipe it belongs to, and who is writing to it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.recipe.types import EXECUTION_SETTINGS, OTHER_PARTS, Recipe, dump_recipe, load_recipe, recipe_fingerprint
from vidtune.training.saving import PREFIX, remove_partial, write_atomic

RECIPE = "recipe.yaml"
FINAL = "final"


@contextmanager
def claimed(out: Path, recipe: Recipe) -> Iterator[None]:
    """Hold ``out`` for a run of ``recipe``: a new run writes its recipe there, an earlier one of the same recipe goes
    on.

    Raises:
        UserError: the folder holds the run of another recipe (the first differing key is named), results without a
        recipe, or
            another process is training into it.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give the folder to train into")
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            # A POSIX lock ends with its process, also by kill -9, and worker processes do not inherit it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{out}: another process is training into this folder; wait for it or choose another"
            ) from None
        check_recipe(out, recipe)
        for folder in (out, *(out / stage.name for stage in recipe.stages)):
            remove_partial(folder)
        write_atomic(out / RECIPE, dump_recipe(recipe))
        yield


def check_recipe(out: Path, recipe: Recipe) -> None:
    """Raise UserError unless ``out`` is free for this recipe. Execution settings (workers, saving) may differ."""
    if not (out / RECIPE).is_file():
        for stage in recipe.stages:
            results = [*(out / stage.name).glob(f"{PREFIX}*"), *(out / stage.name).glob(FINAL)]
            if results:
                raise UserError(f"{results[0]}: results of a run whose {RECIPE} is gone; choose another output folder")
        return
    earlier = load_recipe(out / RECIPE)
    if recipe_fingerprint(earlier) == recipe_fingerprint(recipe):
        return
    key, old, new = _first_difference(_values(earlier), _values(recipe))
    raise UserError(
        f"{out}: holds the run of another recipe: {key} was {old!r} and is {new!r}; choose another output folder"
    )


def _values(recipe: Recipe) -> dict[str, Any]:
    values = recipe.model_dump(mode="json", by_alias=True, exclude=OTHER_PARTS)
    values["stages"] = {
        stage["name"]: {key: value for key, value in stage.items() if key not in EXECUTION_SETTINGS}
        for stage in values["stages"]
    }
    return values


def _first_difference(old: Any, new: Any, key: str = "") -> tuple[str, Any, Any]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*new, *(name for name in old if name not in new)]:
            if old.get(name) != new.get(name):
                return _first_difference(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    return key or "the order of the stages", old, new
