"""Files of a world on disk: its spec, media files rendered by several processes, JSON files."""

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from vidtune.errors import UserError
from vidtune.foreign.documents import read_json
from vidtune.machine.cores import available_cores
from vidtune.machine.files import remove_leftovers, write_text_atomically
from vidtune.machine.parallel_work import work_in_processes

Drawn = TypeVar("Drawn")
Json = dict[str, Any]
RenderProgress = Callable[[int, int], None]
"""Callback(done, total), called after every rendered file."""
_FEWEST_FOR_PROCESSES = 16


def claim(out: Path, spec: Any) -> None:
    """Write the spec of a world to ``world.json`` in its folder.

    Args:
        out: folder of the world.
        spec: dataclass of numbers and strings.

    Raises:
        UserError: the folder contains a world with another spec.
    """
    record = out / "world.json"
    if record.exists() and read_json(record) != asdict(spec):
        raise UserError(f"{out}: holds a world of another size or seed; choose another folder or remove it")
    write_json(record, asdict(spec))


def render_missing(
    files: Sequence[tuple[Path, Drawn]],
    write: Callable[[Drawn, Path], None],
    workers: int | None,
    progress: RenderProgress | None,
) -> None:
    """Render the files that do not exist yet.

    Args:
        files: path of each file, and the value from which ``write`` renders it.
        write: picklable function that renders one file.
        workers: number of processes; None: one for each core.
        progress: progress callback.
    """
    missing = [(path, drawn) for path, drawn in files if not path.exists()]
    folders = {path.parent for path, _ in missing}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    if progress:
        progress(len(files) - len(missing), len(files))
    work = partial(_write_numbered, missing, write)
    workers = workers or available_cores()
    few = workers == 1 or len(missing) < _FEWEST_FOR_PROCESSES
    finished: Iterator[object] = (
        map(work, range(len(missing))) if few else work_in_processes(work, range(len(missing)), workers)
    )
    try:
        for done, _ in enumerate(finished, start=len(files) - len(missing) + 1):
            if progress:
                progress(done, len(files))
    except BaseException:  # such as a full disk: processes that are ended leave what they were writing
        if isinstance(finished, Generator):
            finished.close()
        for folder in folders:
            remove_leftovers(folder)
        raise


def _write_numbered(files: Sequence[tuple[Path, Drawn]], write: Callable[[Drawn, Path], None], number: int) -> None:
    path, drawn = files[number]
    write(drawn, path)


def write_world(
    out: Path,
    spec: Any,
    *,
    files: Sequence[tuple[Path, Drawn]],
    write: Callable[[Drawn, Path], None],
    written: Mapping[str, Any],
    tokenizer: Callable[[Path], None],
    workers: int | None,
    progress: RenderProgress | None,
) -> None:
    """Write a world into a folder; media files that exist are kept, so that a call that was stopped can be repeated.

    Args:
        out: folder of the world.
        spec: size and seed of the world, see `claim`.
        files, write, workers, progress: see `render_missing`.
        written: path below the folder -> value of a JSON file.
        tokenizer: writes the tokenizer of the world into a folder; called where there is none yet.

    Raises:
        UserError: the folder contains another world.
    """
    claim(out, spec)
    render_missing(files, write, workers, progress)
    for name, value in written.items():
        write_json(out / name, value)
    if not (out / "tokenizer" / "tokenizer_config.json").exists():
        tokenizer(out / "tokenizer")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step; a list has one line per value."""
    write_text_atomically(path, json.dumps(value, indent=None if isinstance(value, dict) else 1))


def file_name(kind: str, index: int) -> str:
    """Returns the id of a sample, which is the name of its file without the suffix."""
    return f"{kind}_{index:05d}"


def conversation(id_: str, turns: Sequence[tuple[str, str]], **media: str) -> Json:
    """One training sample of questions and answers; its first question starts with the tags of its media.

    Args:
        media: stream -> path of its file.
    """
    tag = "".join(f"<{stream}>\n" for stream in media)
    told = []
    for number, (question, answer) in enumerate(turns):
        told.append({"from": "human", "value": question if number else tag + question})
        told.append({"from": "gpt", "value": answer})
    return {"id": id_, **media, "conversations": told}
