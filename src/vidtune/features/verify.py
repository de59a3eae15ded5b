"""Lists the collections of a store, and verifies every byte by its checksum."""

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.features.collection import COLLECTION, FAILED, INDEX, SHARDS, collections, read_about
from vidtune.features.imported import is_imported, verify_items
from vidtune.features.shards import MappedShard, raw_bytes
from vidtune.machine.progress import ProgressCallback, no_progress
from vidtune.machine.records import read_records


@dataclass(frozen=True)
class Summary:
    """Summary of a collection.

    Args:
        name: name of its folder.
        title: system and stream, or the folder from which it was imported.
        dtype: dtype of its features; empty for an imported collection, whose files may differ.
        items: number of items.
        shards: number of safetensors files.
        bytes: size of all safetensors files.
        failed: number of media files without features.
    """

    name: str
    title: str
    dtype: str
    items: int
    shards: int
    bytes: int
    failed: int


@dataclass
class Verification:
    """Result of verifying a collection.

    Args:
        name: name of its folder.
        items: number of intact items.
        twice: number of items that are in more than one shard; this is harmless.
        problems: one line per problem.
    """

    name: str
    items: int = 0
    twice: int = 0
    problems: list[str] = field(default_factory=list)


def summaries(store: Path) -> Iterator[Summary]:
    """Yields a summary of every collection of a store, read from their indices."""
    for folder in collections(store):
        about = read_about(folder)
        files = list(folder.rglob("*.safetensors"))
        items = {entry.get("item") for entry in _lines(folder / INDEX)}
        failed = {(entry.get("stream"), entry.get("path")) for entry in _lines(folder / FAILED)}
        size = sum(file.stat().st_size for file in files)
        dtype = about.get("made_by", {}).get("dtype", "")
        yield Summary(folder.name, _title(about), dtype, len(items), len(files), size, len(failed))


def verify(store: Path, progress: ProgressCallback = no_progress) -> Iterator[Verification]:
    """Compare the features of all collections of a store with their checksums."""
    for folder in collections(store):
        about, found = read_about(folder), Verification(folder.name)
        if is_imported(about):
            _verify_imported(folder, found)
        else:
            _verify_shards(folder, found, progress)
        yield found


def _verify_imported(folder: Path, found: Verification) -> None:
    for item, problem in verify_items(folder):
        if problem is None:
            found.items += 1
        else:
            found.problems.append(f"{folder / item}.safetensors: {problem}; delete it and import the folder again")


def _verify_shards(folder: Path, found: Verification, progress: ProgressCallback) -> None:
    holders: Counter[str] = Counter()
    paths = sorted((folder / SHARDS).glob("*.safetensors"))
    index = {(entry.get("item"), entry.get("shard")): entry for entry in _lines(folder / INDEX)}
    for done, path in enumerate(paths, 1):
        try:
            shard = MappedShard(path)
        except (UserError, ValueError, OSError, RuntimeError) as error:
            found.problems.append(f"{path}: {error}; delete it and extract again")
            continue
        bad = [item for item in shard.header.places if not _is_intact(shard, item, index.get((item, path.name), {}))]
        holders.update(item for item in shard.header.places if item not in bad)
        if bad:
            number = f"{len(bad)} of {len(shard.header.places)} items"
            found.problems.append(f"{path}: the bytes of {number} changed, first {bad[0]}; delete it and extract again")
        progress(f"shards of {folder.name}", done, len(paths))
    lost = Counter(str(shard) for item, shard in index if item not in holders)
    names = {path.name for path in paths}
    found.problems += [
        f"{folder / SHARDS / shard}: is gone, with {number} items that no other holds; extract again"
        for shard, number in lost.items()
        if shard not in names
    ]
    found.items, found.twice = len(holders), sum(number > 1 for number in holders.values())


def _is_intact(shard: MappedShard, item: str, listed: dict[str, Any]) -> bool:
    """Whether the bytes and the shape of an item agree with its entry in the shard, and that with the index."""
    entry, features = shard.header.entries[item], shard[item]
    if listed and any(listed.get(name) != value for name, value in entry.items()):
        return False
    return list(features.shape) == entry.get("shape") and zlib.crc32(raw_bytes(features)) == entry.get("crc32")


def _title(about: dict[str, Any]) -> str:
    if is_imported(about):
        return f"imported from {about['imported'].get('from')}"
    origin = about.get("origin", {})
    return " ".join(str(origin[word]) for word in ("system", "stream", "tower") if word in origin)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    return read_records(path, skip_broken=True)


def require_collections(store: Path) -> None:
    """Raise UserError if a folder contains no collection."""
    if next(collections(store), None) is None:
        raise UserError(f"{store}: no feature store: no folder in it holds a {COLLECTION}")
