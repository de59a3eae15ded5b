"""What the data of a stage hold, recorded beside its results: data may move while a run goes on, but not change.

The plan compares annotations and tokens itself. Here the media are compared as well, a few files of them, and so are
the data of stages that are finished.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from vidtune.data.problems import SampleProblem
from vidtune.data.tables import AnnotationFile, AnnotationTable
from vidtune.features.identity import content_hash
from vidtune.machine.files import read_json, write_json_atomically
from vidtune.recipe.types import DataSource, Stage

RECORD = "data.json"
SAMPLED = 16
"""Number of samples of an annotation file whose media are compared."""


def record_contents(folder: Path, stage: Stage, table: AnnotationTable) -> None:
    """Write to the folder of a stage what its data hold, before anything is trained on them.

    Args:
        table: of the sources of the stage.
    """
    found = [_content(source, file) for source, file in zip(stage.data, table.files, strict=True)]
    write_json_atomically(folder / RECORD, found)


def has_record(folder: Path) -> bool:
    """Whether there is a record; earlier versions wrote none."""
    return (folder / RECORD).is_file()


def other_content(folder: Path, stage: Stage, cache: Path) -> str | None:
    """Returns the path of data of a stage that hold something else than the record says, or None.

    Data at the places of the record are not looked at.

    Args:
        folder: folder of the stage, with a record.
        cache: folder of parsed annotations.

    Raises:
        UserError: annotations cannot be read.
    """
    recorded = read_json(folder / RECORD)
    if len(recorded) != len(stage.data):
        return str(stage.data[-1].annotations)
    for source, old in zip(stage.data, recorded, strict=True):
        if _paths(source) == old.get("paths"):
            continue
        now = _content(source, AnnotationTable.open([source], cache).files[0])
        if now["annotations"] != old.get("annotations"):
            return source.annotations
        pairs = zip(now["files"], old.get("files", ()), strict=False)
        if any(one != other for one, other in pairs if one is not None and other is not None):
            return source.media or next(iter(source.features.values()), source.annotations)
    return None


def _content(source: DataSource, file: AnnotationFile) -> dict[str, Any]:
    numbers = np.unique(np.linspace(0, len(file) - 1, min(SAMPLED, len(file))).astype(int)).tolist()
    files = [_files_hash(file, number) for number in numbers]
    return {"paths": _paths(source), "annotations": file.content_hash, "files": files}


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
