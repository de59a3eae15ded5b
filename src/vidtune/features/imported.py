"""Import of published feature folders: one file per item, of any format, becomes one safetensors file per item.

The result is a collection of the store. It is also a folder of feature files that a recipe can name
(``features: {STREAM: FOLDER}``): no file of it needs unpickling, and each is memory-mappable and contains one array of
the right width. The files are not joined to shards, because they are read one by one, as published folders are.

Legend: N tokens, C tower width.
"""

import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidtune import __version__
from vidtune.errors import MediaError, UserError
from vidtune.features.collection import COLLECTION, FAILED, INDEX, append_records, read_about, write_about
from vidtune.features.shards import write_shard
from vidtune.foreign.containment import is_inside, stays_below
from vidtune.machine.progress import ProgressCallback, no_progress
from vidtune.machine.records import read_records, write_records
from vidtune.media.feature_file import FEATURE_SUFFIXES, feature_shape, read_features
from vidtune.media.file_version import FileVersion, version_of

TENSOR = "features"
AT_ONCE = 8
"""Number of files that are read at the same time; the disk is the bottleneck."""
LINES_AT_ONCE = 256


@dataclass
class ImportReport:
    """Result of an import.

    Args:
        width: width C of all features; None: no file was imported.
        imported: number of files imported now.
        found: number of files imported before.
        failed: path and reason of each refused file.
    """

    width: int | None
    imported: int = 0
    found: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


def is_imported(about: dict[str, Any]) -> bool:
    """Whether a collection was imported, and contains one file per item; ``about`` is its collection.json."""
    return "imported" in about


def import_folder(
    folder: Path, store: Path, name: str, *, width: int | None = None, progress: ProgressCallback = no_progress
) -> ImportReport:
    """Import a folder of feature files as a collection; an import that was stopped continues where it was.

    Args:
        folder: folder of ``.npy``, ``.pt``, ``.pkl`` and ``.safetensors`` files.
        store: folder of the store.
        name: name of the collection.
        width: width C that every file must have; None: the width of more than half of them.
        progress: progress callback.

    Raises:
        UserError: the folder does not exist or contains no feature files; the name is taken or cannot be a folder; no
            width is that of more than half of the files, and none is given; the collection holds items of another
            width.
    """
    target = _target(folder, store, name)
    paths = sorted(path for path in folder.rglob("*") if path.suffix in FEATURE_SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f"{folder}: holds no {', '.join(FEATURE_SUFFIXES)} files")
    report = ImportReport(width)
    items = _items(folder, paths, report)
    held = _held_items(items, target)
    before = {item: found for item, found in held.items() if item in items}
    missing = {item: path for item, path in items.items() if item not in before}
    own = next(iter(held.values()), None)
    if width is None:
        report.width = _common_width(folder, {**before, **_widths(missing)}, items, own)
    if own not in (None, report.width):
        raise UserError(
            f"{target}: holds {len(held)} items of width {own}, but width {report.width} is "
            + (f"that of most files of {folder}" if width is None else "given with --width")
            + "; choose another --name, or remove this collection first"
        )
    report.found = len(before)
    _write_about(target, folder, report.width)
    for done in _import_items(missing, target, report):
        progress(f"files of {folder.name}", len(before) + done, len(paths))
    refused = {path for path, _ in report.failed}
    _remove(target, [item for item, path in items.items() if str(path) in refused])
    _list_failed(target / FAILED, report)
    return report


def _import_items(items: dict[str, Path], target: Path, report: ImportReport) -> Iterator[int]:
    """Import files; yields how many were looked at, after each."""
    lines: list[dict[str, Any]] = []
    for done, loaded in enumerate(_read_all(items), 1):
        if line := _import_item(loaded, target, report):
            lines.append(line)
        if len(lines) >= LINES_AT_ONCE:
            append_records(target / INDEX, lines)
            lines = []
        yield done
    append_records(target / INDEX, lines)


def _widths(items: dict[str, Path]) -> dict[str, int]:
    """Item -> width of its file, of every file that can be read."""

    def width(path: Path) -> int | None:
        try:
            return feature_shape(str(path))[-1]
        except MediaError:
            return None  # named when it is imported

    with ThreadPoolExecutor(AT_ONCE) as crew:
        found = zip(items, crew.map(width, items.values()), strict=True)
        return {item: width for item, width in found if width is not None}


def _common_width(folder: Path, widths: dict[str, int], items: dict[str, Path], own: int | None) -> int | None:
    """Returns the width of more than half of the items, else that of the collection; None if no file can be read.

    Raises:
        UserError: no width is that of more than half; names each with the first file of it.
    """
    counts = Counter(widths.values())
    if not counts:
        return own
    width, most = counts.most_common(1)[0]
    if 2 * most > len(widths):
        return width
    if own is not None:
        return own
    firsts = {width: next(items[item] for item in widths if widths[item] == width) for width in counts}
    found = ", ".join(f"{counts[width]} of {width} (such as {file.name})" for width, file in firsts.items())
    raise UserError(f"{folder}: features of several widths: {found}; choose one with --width")


def verify_items(folder: Path) -> Iterator[tuple[str, str | None]]:
    """Yields every item of an imported collection with its problem; None: the item is intact."""
    for item, entry in _entries(folder).items():
        try:
            features = np.ascontiguousarray(read_features(str(folder / f"{item}.safetensors")))
        except MediaError as error:
            yield item, error.reason
            continue
        yield item, None if zlib.crc32(features.data) == entry.get("crc32") else "its bytes changed"


@dataclass(frozen=True)
class _Loaded:
    """A file that was read: ``features`` is (N, C) or longer, or None with the ``reason``."""

    item: str
    path: Path
    version: FileVersion
    features: np.ndarray | None
    reason: str = ""


def _target(folder: Path, store: Path, name: str) -> Path:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not name or name != Path(name).name or name.startswith("."):
        raise UserError(f"{name!r}: cannot be the name of a collection; give one that can name a folder")
    target = store / name
    if is_inside(target, folder):
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


def _items(folder: Path, paths: list[Path], report: ImportReport) -> dict[str, Path]:
    """Item -> file; a second file of the same item is refused, and so is a link that leads out of the folder."""
    items: dict[str, Path] = {}
    for path in paths:
        if not is_inside(path, folder):
            report.failed.append((str(path), "leads out of its folder through a symbolic link; copy the file"))
            continue
        item = path.relative_to(folder).with_suffix("").as_posix()
        if item in items:
            report.failed.append((str(path), f"{items[item].name} beside it is of the same item"))
        else:
            items[item] = path
    return items


def _entries(target: Path) -> dict[str, dict[str, Any]]:
    """Item -> its last line in the index; without items that would be files outside the collection."""
    entries = {str(entry.get("item")): entry for entry in read_records(target / INDEX, skip_broken=True)}
    return {
        item: entry
        for item, entry in entries.items()
        if stays_below(item) and is_inside(target / f"{item}.safetensors", target)
    }


def _held_items(items: dict[str, Path], target: Path) -> dict[str, int]:
    """Item -> width, of the items of a collection whose files have not changed since, or are gone."""
    found: dict[str, int] = {}
    for item, entry in _entries(target).items():
        shape, version = entry.get("shape"), entry.get("version")
        if not (isinstance(shape, list) and shape and (target / f"{item}.safetensors").is_file()):
            continue
        # Earlier releases wrote no version.
        if item not in items or version in (None, list(version_of(str(items[item])))):
            found[item] = int(shape[-1])
    return found


def _remove(target: Path, items: list[str]) -> None:
    """Remove items that were imported before, from files that have changed since and are refused now."""
    gone = {item for item in items if (target / f"{item}.safetensors").is_file()}
    if gone:
        write_records(target / INDEX, [entry for item, entry in _entries(target).items() if item not in gone])
        for item in gone:
            (target / f"{item}.safetensors").unlink()


def _read_all(items: dict[str, Path]) -> Iterator[_Loaded]:
    """Yields the content of all files, in order."""

    def read(item: str) -> _Loaded:
        path = items[item]
        version = version_of(str(path))  # before it is read
        try:
            return _Loaded(item, path, version, read_features(str(path)))
        except MediaError as error:
            return _Loaded(item, path, version, None, error.reason)

    names = list(items)
    with ThreadPoolExecutor(AT_ONCE) as crew:
        for begin in range(0, len(names), 4 * AT_ONCE):
            yield from crew.map(read, names[begin : begin + 4 * AT_ONCE])


def _import_item(loaded: _Loaded, target: Path, report: ImportReport) -> dict[str, Any] | None:
    """Write one item and return its line for the index; None: the file is refused."""
    if loaded.features is None:
        report.failed.append((str(loaded.path), loaded.reason))
        return None
    width = loaded.features.shape[-1]
    if width != report.width:
        report.failed.append((str(loaded.path), f"has width {width}, not {report.width}"))
        return None
    report.imported += 1
    name = f"{loaded.item}.safetensors"
    array = np.ascontiguousarray(loaded.features)
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    (entry,) = write_shard(target / name, {TENSOR: tensor}, {TENSOR: str(loaded.path)}).values()
    return {"item": loaded.item, "shard": name, "tensor": TENSOR, **entry, "version": loaded.version}


def _list_failed(path: Path, report: ImportReport) -> None:
    listed = {(entry.get("path"), entry.get("reason")) for entry in read_records(path, skip_broken=True)}
    fresh = [(file, reason) for file, reason in report.failed if (file, reason) not in listed]
    append_records(path, [{"path": file, "reason": reason} for file, reason in fresh])
