"""What the data of a stage and the parts of a recipe hold, recorded beside the results: they may move while a run goes
on, but not change.

The plan compares annotations and tokens itself. Here the media are compared as well, a few files of them, and so are
the data of stages that are finished.
"""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from vidtune.data.problems import SampleProblem
from vidtune.data.sources import of_each_file
from vidtune.data.tables import AnnotationFile, AnnotationTable
from vidtune.errors import UserError
from vidtune.foreign.documents import read_json, read_object
from vidtune.machine.files import write_json_atomically
from vidtune.media.kept.identity import content_hash
from vidtune.recipe.stored import with_places
from vidtune.recipe.types import DataSource, Recipe, Stage

RECORD = "data.json"
PLACES = "places.json"
"""File in the folder of a run: dotted key of a place of the recipe -> hash of the content that it had at first."""
CHOICES = ("sampling", "frame_rate")
"""Settings of a data source that may stand in a list of data sets, where the recipe does not hold them."""
SAMPLED = 16
"""Number of samples of an annotation file whose media are compared."""


def record_contents(folder: Path, stage: Stage, table: AnnotationTable) -> None:
    """Write to the folder of a stage what its data hold, before anything is trained on them.

    Args:
        table: of the sources of the stage.
    """
    found = [_content(source, file) for source, file in zip(of_each_file(stage.data), table.files, strict=True)]
    write_json_atomically(folder / RECORD, found)


def has_record(folder: Path) -> bool:
    """Whether there is a record; earlier versions wrote none."""
    return (folder / RECORD).is_file()


def known_contents(folder: Path, checkpoints: Iterable[Path]) -> set[str]:
    """Returns the hashes by which the folder of a stage knows its annotation files: of its record and checkpoints."""
    found: set[str] = set()
    # What is absent or damaged is named by whoever needs it.
    with suppress(OSError, UserError, KeyError, TypeError):
        found.update(source["annotations"] for source in read_json(folder / RECORD))
    for place in checkpoints:
        with suppress(OSError, UserError, KeyError, TypeError):
            found.update(file["content"] for file in read_json(place / "state.json")["plan"]["files"])
    return found


def other_content(folder: Path, stage: Stage, cache: Path) -> str | None:
    """Returns the path of data of a stage that hold something else than the record says, or None.

    Data at the places of the record are not looked at.

    Args:
        folder: folder of the stage, with a record.
        cache: folder of parsed annotations.

    Raises:
        UserError: annotations cannot be read.
    """
    recorded, sources = read_json(folder / RECORD), of_each_file(stage.data)
    if not isinstance(recorded, list) or not all(isinstance(one, dict) for one in recorded):
        raise UserError(f"{folder / RECORD}: expected a list of what each data source holds; remove this file")
    if len(recorded) != len(sources):
        return str(stage.data[-1].annotations)
    for source, old in zip(sources, recorded, strict=True):
        if any(getattr(source, key) != old.get(key) for key in CHOICES):
            return source.annotations
        if _paths(source) == old.get("paths"):
            continue
        file = AnnotationTable.open([source], cache).files[0]
        now = _content(source, file)
        if not file.is_known_by(old.get("annotations")):
            return source.annotations
        then = old.get("files")
        pairs = zip(now["files"], then if isinstance(then, list) else (), strict=False)
        if any(one != other for one, other in pairs if one is not None and other is not None):
            return source.media or next(iter(source.features.values()), source.annotations)
    return None


def record_places(out: Path, recipe: Recipe) -> None:
    """Write to the folder of a run what the parts of its recipe hold, before anything is trained.

    Args:
        recipe: without the places of its data, which are recorded as content of the stages.
    """
    hashes = {key: _place_hash(place) for key, place in _places(recipe).items()}
    write_json_atomically(out / PLACES, {key: found for key, found in hashes.items() if found is not None})


def places_of_claim(out: Path, earlier: Recipe, recipe: Recipe) -> Recipe:
    """Returns a recipe with the places of an earlier one, where they moved and hold what they held then.

    A place without a record (of an earlier version, or on the hub) stays.

    Args:
        earlier: recipe of the run in the folder, as `record_places` takes it.
        recipe: the recipe of now.

    Raises:
        UserError: a place moved and holds something else.
    """
    recorded = read_object(out / PLACES) if (out / PLACES).is_file() else {}
    before, names = _places(earlier), {stage.name for stage in recipe.stages}

    def place_then(key: str, place: str) -> str:
        old, then = before.get(key, place), recorded.get(key)
        now = _place_hash(place) if then is not None and place != old and place not in names else None
        if now is None:
            return place
        if now != then:
            raise UserError(
                f"{out}: holds a run with another {key.rstrip('_')}: the content of {place} differs "
                f"from that of {old}, which it was trained with; choose another output folder"
            )
        return old

    moved: Recipe = with_places(recipe, place_then)
    return moved


def _places(recipe: Recipe) -> dict[str, str]:
    """Dotted key -> place, of every place in a recipe that is no stage of it."""
    found: dict[str, str] = {}
    names = {stage.name for stage in recipe.stages}

    def note(key: str, place: str) -> str:
        if place and place not in names:
            found[key] = place
        return place

    with_places(recipe, note)
    return found


def _place_hash(place: str) -> str | None:
    """Returns a hash of the names and sampled contents of all files of a place; None if it is none, or unreadable."""
    root = Path(place).expanduser()
    files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
    hashes = [(str(path.relative_to(root)), content_hash(str(path))) for path in files]
    if not hashes or any(found is None for _, found in hashes):
        return None
    return hashlib.sha256(repr(hashes).encode()).hexdigest()[:32]


def _content(source: DataSource, file: AnnotationFile) -> dict[str, Any]:
    numbers = np.unique(np.linspace(0, len(file) - 1, min(SAMPLED, len(file))).astype(int)).tolist()
    files = [_files_hash(file, number) for number in numbers]
    chosen = {key: getattr(source, key) for key in CHOICES if getattr(source, key) is not None}
    return {"paths": _paths(source), "annotations": file.content_hash, "files": files, **chosen}


def _paths(source: DataSource) -> dict[str, Any]:
    def place(path: str | None) -> str | None:
        return None if path is None else str(Path(path).absolute())

    features = {stream: place(folder) for stream, folder in source.features.items()}
    return {"annotations": place(source.annotations), "media": place(source.media), "features": features}


def _files_hash(file: AnnotationFile, number: int) -> str | None:
    """Returns a hash of the content of the files of a sample; None if one cannot be read, or there are none."""
    try:
        media = file.sample(number).media
    except SampleProblem:
        return None
    paths = [path for ref in media for path in (ref.path, *(feature for _, feature in ref.features)) if path]
    hashes = [content_hash(path) for path in paths]
    if not hashes or None in hashes:
        return None
    return hashlib.sha256(" ".join(map(str, hashes)).encode()).hexdigest()[:32]
