"""The folder of a run: the names of what lies in it, which recipe it belongs to, and which process writes to it.

::

    <out>/recipe.yaml            the recipe of the run
    <out>/places.json            what the files and folders that the recipe names hold
    <out>/.lock                  lock of the process that trains into the folder
    <out>/tables/                parsed annotations, lengths of samples, facts about media files
    <out>/checked_files.jsonl    media files that the data check found to be good
    <out>/<stage>/               excluded.jsonl, data.json, log.jsonl, checkpoint-<step>/, final/

Commands that only look at a run never write to its folder while a process trains into it, see `folder_to_read`.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.machine.files import require_text, write_text_atomically
from vidtune.machine.locks import is_locked, locked
from vidtune.machine.records import read_records, write_records
from vidtune.recipe.files import RECIPE_FILE, dump_recipe, load_recipe
from vidtune.recipe.fingerprint import EXECUTION_SETTINGS, OTHER_PARTS, recipe_fingerprint
from vidtune.recipe.types import DataSource, Recipe
from vidtune.training.log import LOG
from vidtune.training.saving import PREFIX, remove_unfinished
from vidtune.training.setup.data_contents import has_record, other_content, places_of_claim, record_places

TABLES = "tables"
MEDIA_FACTS = "media.jsonl"
CHECKED_FILES = "checked_files.jsonl"
EXCLUSIONS = "excluded.jsonl"
FINAL = "final"


@contextmanager
def claimed(out: Path, recipe: Recipe) -> Iterator[None]:
    """Context manager that holds the folder of a run for training a recipe into it.

    A new run writes its recipe there. An earlier run of the same recipe is continued; its data and the parts
    that it starts from may have moved. A run of another recipe that failed before it trained anything is replaced.

    Raises:
        UserError: the folder holds the run of another recipe (the message names the first difference) or results
            without a recipe, another process is training into it, or its path is no UTF-8 text.
    """
    require_text(out)
    with held(out):
        if not check_recipe(out, recipe):
            _forget_failed_start(out)
        for folder in (out, *(out / stage.name for stage in recipe.stages)):
            remove_unfinished(folder)
        if next(results(out), None) is None:
            record_places(out, _anywhere(recipe))
        write_text_atomically(out / RECIPE_FILE, dump_recipe(recipe))
        yield


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Context manager that holds the lock of a run's folder, which is created if it does not exist.

    Raises:
        UserError: it is a file, or another process is training into it.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give the folder to train into")
    out.mkdir(parents=True, exist_ok=True)
    refusal = "another process is training into this folder; wait for it or choose another"
    with locked(out, refusal=refusal):
        yield


@contextmanager
def folder_to_read(out: Path | None, recipe: Recipe) -> Iterator[Path]:
    """Context manager for a command that plans a run without training. Yields the folder that it may write to.

    This is ``out`` itself, where the tables that it makes are kept for the training. Where ``out`` is None, or another
    process is training into it now, it is a temporary copy (see `borrow`).
    """
    if out is not None and not is_locked(out):
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="vidtune-") as name:
        folder = Path(name)
        if out is not None:
            borrow(out, folder, recipe)
        yield folder


def borrow(out: Path, folder: Path, recipe: Recipe) -> None:
    """Let an empty folder stand in for the folder of a run, for looking at the run without changing it.

    It gets links to the finished tables, which are replaced but never written into, and copies of the files that grow.
    """
    if (out / TABLES).is_dir():
        (folder / TABLES).mkdir()
        for path in (out / TABLES).iterdir():
            if path.name == MEDIA_FACTS:
                shutil.copy(path, folder / TABLES)
            elif path.suffix in ("", ".npy", ".npz") and not path.name.startswith("."):
                (folder / TABLES / path.name).symlink_to(path.resolve())
    for stage in recipe.stages:
        if (out / stage.name / EXCLUSIONS).is_file():
            (folder / stage.name).mkdir()
            shutil.copy(out / stage.name / EXCLUSIONS, folder / stage.name)


def check_recipe(out: Path, recipe: Recipe) -> bool:
    """Check that a folder does not hold the run of another recipe. Returns whether it holds a run of this one.

    Execution settings (workers, saving) and the places of files may differ, and so may everything else until there are
    results.

    Raises:
        UserError: there are results of another recipe, of other data, or without a recipe.
    """
    first = next(results(out), None)
    if first is None:
        return (out / RECIPE_FILE).is_file() and _is_same(out, recipe)
    if not (out / RECIPE_FILE).is_file():
        raise UserError(f"{first}: results of a run whose {RECIPE_FILE} is gone; choose another output folder")
    earlier = load_recipe(out / RECIPE_FILE)
    then = _anywhere(earlier)
    now = places_of_claim(out, then, _anywhere(recipe))
    if recipe_fingerprint(then) != recipe_fingerprint(now):
        raise _another_recipe(out, _values(then), _values(now))
    before = {stage.name: stage for stage in earlier.stages}
    for stage in recipe.stages:
        folder = out / stage.name
        if next(results(out, stage.name), None) is None:
            continue
        if has_record(folder):
            if other := other_content(folder, stage, out / TABLES):
                raise UserError(
                    f"{out}: holds a run on other data: {other} has other content than the data that stage "
                    f"{stage.name!r} was trained on; choose another output folder"
                )
        elif before[stage.name].data != stage.data:  # a run of an earlier version, whose data only their places tell
            raise _another_recipe(out, _values(earlier), _values(recipe))
    return True


def _is_same(out: Path, recipe: Recipe) -> bool:
    try:
        return recipe_fingerprint(load_recipe(out / RECIPE_FILE)) == recipe_fingerprint(recipe)
    except UserError:
        return False  # a recipe that only another version reads; nothing was trained


def results(out: Path, stage: str = "*") -> Iterator[Path]:
    """Yields what training has left in the folder of a stage, or of any: checkpoints, results, logs with lines."""
    for kind in (f"{PREFIX}*", FINAL):
        yield from sorted(out.glob(f"{stage}/{kind}"))
    yield from (log for log in sorted(out.glob(f"{stage}/{LOG}")) if log.stat().st_size)


def _forget_failed_start(out: Path) -> None:
    """Remove the records of steps that a run left which has no results; they are not about the steps of another run."""
    for path in out.glob(f"*/{EXCLUSIONS}"):
        lines = list(read_records(path, skip_broken=True))
        if kept := [line for line in lines if "step" not in line]:
            write_records(path, kept)
        else:
            path.unlink()


def _anywhere(recipe: Recipe) -> Recipe:
    """Returns the recipe without the places of its data and without what does not change the weights."""

    def moved(source: DataSource) -> DataSource:
        media = None if source.media is None else ""
        return source.model_copy(
            update={
                "annotations": "",
                "media": media,
                "features": dict.fromkeys(source.features, ""),
                "roots": {},
                "missing_sets": None,
            }
        )

    stages = [stage.model_copy(update={"data": tuple(map(moved, stage.data))}) for stage in recipe.stages]
    return recipe.model_copy(update={"stages": tuple(stages), "features": None, "benchmarks": ()})


def _another_recipe(out: Path, earlier: dict[str, Any], recipe: dict[str, Any]) -> UserError:
    key, old, new = _first_difference(earlier, recipe)
    return UserError(
        f"{out}: holds the run of another recipe: {key} was {old!r} and is {new!r}; choose another output folder"
    )


def _values(recipe: Recipe) -> dict[str, Any]:
    """Returns the settings that decide the weights, with the stages by name."""
    values = recipe.model_dump(mode="json", by_alias=True, exclude=OTHER_PARTS)
    values["stages"] = {
        stage["name"]: {key: value for key, value in stage.items() if key not in EXECUTION_SETTINGS}
        for stage in values["stages"]
    }
    return values


def _first_difference(old: Any, new: Any, key: str = "") -> tuple[str, Any, Any]:
    """Returns the dotted key of the first value that differs, the old value and the new one."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*new, *(name for name in old if name not in new)]:
            if old.get(name) != new.get(name):
                return _first_difference(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    return key or "the order of the stages", old, new
