"""Import of published feature folders: one file per item, of any format, to one safetensors file per item.

The result is a collection of the store, and at the same time a folder of feature files as recipes name them
(``features: {STREAM: FOLDER}``): nothing in it needs unpickling, every file can be memory-mapped, and was found to be
one array of the right width. Sharding would gain nothing: published folders are loose files, and are read as such.

Legend: N tokens, C tower width.
"""

import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidtune import __version__
from vidtune.errors import MediaError, UserError
from vidtune.features.collection import (
    COLLECTION,
    FAILED,
    INDEX,
    append_lines,
    parse_lines,
    read_about,
    write_about,
)
from vidtune.features.shards import write_shard
from vidtune.media.feature_file import FEATURE_SUFFIXES, read_features

TENSOR = "features"
AT_ONCE = 8
"""Files that are read at once: the disk is what takes time."""
LINES_AT_ONCE = 256

Progress = Callable[[str, int, int], None]


@dataclass
class ImportReport:
    """What became of a folder's files.

    Args:
        width: C of all of them.
        imported: files that are new.
        found: files that were imported before.
        failed: path and reason of files that are refused.
    """

    width: int | None
    imported: int = 0
    found: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


def is_loose(about: dict[str, Any]) -> bool:
    """Whether a collection was imported, and holds a file per item."""
    return "imported" in about


def import_folder(
    folder: Path, store: Path, name: str, *, width: int | None = None, progress: Progress | None = None
) -> ImportReport:
    """Make a collection of a folder of ``.npy``, ``.pt``, ``.pkl`` and ``.safetensors`` files; goes on where it was.

    Args:
        name: of the collection.
        width: C that every file must have; None: that of the first one.

    Raises:
        UserError: no such folder or nothing in it; the name is taken or is none.
    """
    target = _target(folder, store, name)
    paths = sorted(path for path in folder.rglob("*") if path.suffix in FEATURE_SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f"{folder}: holds no {', '.join(FEATURE_SUFFIXES)} files")
    about = read_about(target) if (target / COLLECTION).is_file() else None
    report = ImportReport(width or (about or {}).get("imported", {}).get("width"))
    _write_about(target, folder, report.width)
    known = {entry.get("item") for entry in _lines(target / INDEX)}
    items: dict[str, Path] = {}
    for path in paths:
        item = path.relative_to(folder).with_suffix("").as_posix()
        if item in items:
            report.failed.append((str(path), f"{items[item].name} beside it is of the same item"))
        else:
            items[item] = path
    there = {item for item in items if item in known and (target / f"{item}.safetensors").is_file()}
    items = {item: path for item, path in items.items() if item not in there}
    report.found = len(there)
    lines: list[dict[str, Any]] = []
    for done, (item, path, features, reason) in enumerate(_read_all(items), 1):
        if features is not None and report.width in (None, features.shape[1]):
            report.width = features.shape[1]
            lines.append(_write(target, item, features, path))
            report.imported += 1
        else:
            reason = reason if features is None else f"has width {features.shape[1]}, not {report.width}"
            report.failed.append((str(path), reason))
        if len(lines) >= LINES_AT_ONCE:
            append_lines(target / INDEX, lines)
            lines = []
        if progress is not None:
            progress(f"files of {folder.name}", report.found + done, len(paths))
    append_lines(target / INDEX, lines)
    listed = {(entry.get("path"), entry.get("reason")) for entry in _lines(target / FAILED)}
    fresh = [(path, reason) for path, reason in report.failed if (path, reason) not in listed]
    append_lines(target / FAILED, [{"path": path, "reason": reason} for path, reason in fresh])
    _write_about(target, folder, report.width)
    return report


def check_loose(folder: Path) -> Iterator[tuple[str, str | None]]:
    """Every item of an imported collection, and what is wrong with it."""
    seen = set()
    for entry in _lines(folder / INDEX):
        item = str(entry.get("item"))
        if item in seen:
            continue
        seen.add(item)
        try:
            features = np.ascontiguousarray(read_features(str(folder / f"{item}.safetensors")))
        except MediaError as error:
            yield item, error.reason
            continue
        yield item, None if zlib.crc32(features.data) == entry.get("crc32") else "its bytes changed"


def _target(folder: Path, store: Path, name: str) -> Path:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not name or name != Path(name).name or name.startswith("."):
        raise UserError(f"{name!r}: cannot be the name of a collection; give one that can name a folder")
    target = store / name
    if target.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{target}: lies in the folder that is to be imported; choose another store")
    if (target / COLLECTION).is_file():
        found = read_about(target).get("imported", {}).get("from")
        if found != str(folder.resolve()):
            raise UserError(f"{target}: holds another collection; choose another name")
    target.mkdir(parents=True, exist_ok=True)
    return target


def _write_about(target: Path, folder: Path, width: int | None) -> None:
    origin = {"vidtune": __version__, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_about(target, {"imported": {"from": str(folder.resolve()), "width": width}, "origin": origin})


def _read_all(items: dict[str, Path]) -> Iterator[tuple[str, Path, np.ndarray | None, str]]:
    """Item, file, and its array or what is wrong with it; in order."""

    def read(item: str) -> tuple[str, Path, np.ndarray | None, str]:
        try:
            return item, items[item], read_features(str(items[item])), ""
        except MediaError as error:
            return item, items[item], None, error.reason

    names = list(items)
    with ThreadPoolExecutor(AT_ONCE) as crew:
        for begin in range(0, len(names), 4 * AT_ONCE):
            yield from crew.map(read, names[begin : begin + 4 * AT_ONCE])


def _write(target: Path, item: str, features: np.ndarray, source: Path) -> dict[str, Any]:
    path = target / f"{item}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.ascontiguousarray(features)
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    (entry,) = write_shard(path, {TENSOR: tensor}, {TENSOR: str(source)}).values()
    return {"item": item, "shard": f"{item}.safetensors", "tensor": TENSOR, **entry}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    return parse_lines(path.read_bytes() if path.is_file() else b"")
