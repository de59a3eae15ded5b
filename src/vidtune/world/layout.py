"""How a world is laid on disk: a record of its spec, media files rendered by several processes, JSON files."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from vidtune.errors import UserError
from vidtune.machine.cores import available_cores
from vidtune.machine.parallel_work import work_in_processes

Drawn = TypeVar("Drawn")
Json = dict[str, Any]
Progress = Callable[[int, int], None]
_FEWEST_FOR_PROCESSES = 16


def claim(out: Path, spec: Any) -> None:
    """Note in ``world.json`` which world the folder holds.

    Args:
        spec: a dataclass of numbers and strings.
    Raises:
        UserError: ``out`` holds a world of another spec.
    """
    record = out / "world.json"
    if record.exists() and json.loads(record.read_text()) != asdict(spec):
        raise UserError(f"{out}: holds a world of another size or seed; choose another folder or remove it")
    write_json(record, asdict(spec))


def render_missing(
    files: Sequence[tuple[Path, Drawn]],
    write: Callable[[Drawn, Path], None],
    workers: int | None,
    progress: Progress | None,
) -> None:
    """Write the files that are not there.

    Args:
        files: where each goes, and what ``write`` needs to draw it.
        write: picklable.
        workers: processes; None means one for each core.
        progress: called with files done and files in all.
    """
    missing = [(path, drawn) for path, drawn in files if not path.exists()]
    for folder in {path.parent for path, _ in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    if progress:
        progress(len(files) - len(missing), len(files))
    work = partial(_write_numbered, missing, write)
    workers = workers or available_cores()
    few = workers == 1 or len(missing) < _FEWEST_FOR_PROCESSES
    finished: Iterator[object] = (
        map(work, range(len(missing))) if few else work_in_processes(work, range(len(missing)), workers)
    )
    for done, _ in enumerate(finished, start=len(files) - len(missing) + 1):
        if progress:
            progress(done, len(files))


def _write_numbered(files: Sequence[tuple[Path, Drawn]], write: Callable[[Drawn, Path], None], number: int) -> None:
    path, drawn = files[number]
    write(drawn, path)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all; a list gets a line per value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(value, indent=None if isinstance(value, dict) else 1))
    part.replace(path)


def file_name(kind: str, index: int) -> str:
    """Name of a sample and, without its suffix, of its file."""
    return f"{kind}_{index:05d}"
