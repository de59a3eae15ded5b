"""Looking at a store: what it holds, and whether every byte of it is as it was written."""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.features.collection import COLLECTION, FAILED, INDEX, SHARDS, collections, parse_lines, read_about
from vidtune.features.loose import check_loose, is_loose
from vidtune.features.shards import MappedShard, raw_bytes

Progress = Callable[[str, int, int], None]
"""Called with what is being checked, how many of it are done, how many there are."""


@dataclass(frozen=True)
class Summary:
    """A collection at a glance.

    Args:
        name: of its folder.
        title: system and stream, or where it was imported from.
        dtype: of its features; empty for imported ones, where each has its own.
        items, shards, bytes: that it holds.
        failed: files of which there are no features.
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
    """What was found of a collection.

    Args:
        name: of its folder.
        items: that are as they were written.
        twice: how many of them more than one shard holds; harmless.
        problems: a line each.
    """

    name: str
    items: int = 0
    twice: int = 0
    problems: list[str] = field(default_factory=list)


def summaries(store: Path) -> Iterator[Summary]:
    """All collections of a store, from their indices."""
    for folder in collections(store):
        about = read_about(folder)
        files = list(folder.rglob("*.safetensors"))
        items = {entry.get("item") for entry in _lines(folder / INDEX)}
        failed = {(entry.get("stream"), entry.get("path")) for entry in _lines(folder / FAILED)}
        size = sum(file.stat().st_size for file in files)
        dtype = about.get("made_by", {}).get("dtype", "")
        yield Summary(folder.name, _title(about), dtype, len(items), len(files), size, len(failed))


def verify(store: Path, progress: Progress | None = None) -> Iterator[Verification]:
    """Compare all collections of a store with their checksums."""
    tell = progress or (lambda what, done, total: None)
    for folder in collections(store):
        about, found = read_about(folder), Verification(folder.name)
        if is_loose(about):
            _verify_loose(folder, found)
        else:
            _verify_shards(folder, found, tell)
        yield found


def _verify_loose(folder: Path, found: Verification) -> None:
    for item, problem in check_loose(folder):
        if problem is None:
            found.items += 1
        else:
            found.problems.append(f"{folder / item}.safetensors: {problem}; delete it and import the folder again")


def _verify_shards(folder: Path, found: Verification, tell: Progress) -> None:
    holders: Counter[str] = Counter()
    paths = sorted((folder / SHARDS).glob("*.safetensors"))
    index = {(entry.get("item"), entry.get("shard")): entry for entry in _lines(folder / INDEX)}
    for done, path in enumerate(paths, 1):
        try:
            shard = MappedShard(path)
        except (ValueError, OSError, RuntimeError) as error:
            found.problems.append(f"{path}: {error}; delete it and extract again")
            continue
        bad = [item for item in shard.header.places if not _is_intact(shard, item, index.get((item, path.name), {}))]
        holders.update(item for item in shard.header.places if item not in bad)
        if bad:
            number = f"{len(bad)} of {len(shard.header.places)} items"
            found.problems.append(f"{path}: the bytes of {number} changed, first {bad[0]}; delete it and extract again")
        tell(f"shards of {folder.name}", done, len(paths))
    lost = Counter(str(shard) for item, shard in index if item not in holders)
    names = {path.name for path in paths}
    found.problems += [
        f"{folder / SHARDS / shard}: is gone, with {number} items that no other holds; extract again"
        for shard, number in lost.items()
        if shard not in names
    ]
    found.items, found.twice = len(holders), sum(number > 1 for number in holders.values())


def _is_intact(shard: MappedShard, item: str, listed: dict[str, Any]) -> bool:
    """Whether an item's bytes and shape are those that the shard says, and the index says the same."""
    entry, features = shard.header.entries[item], shard[item]
    if listed and any(listed.get(name) != value for name, value in entry.items()):
        return False
    return list(features.shape) == entry.get("shape") and zlib.crc32(raw_bytes(features)) == entry.get("crc32")


def _title(about: dict[str, Any]) -> str:
    if is_loose(about):
        return f"imported from {about['imported'].get('from')}"
    origin = about.get("origin", {})
    return " ".join(str(origin[word]) for word in ("system", "stream", "tower") if word in origin)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    return parse_lines(path.read_bytes() if path.is_file() else b"")


def require_collections(store: Path) -> None:
    """Raise UserError when a folder holds no collection."""
    if next(collections(store), None) is None:
        raise UserError(f"{store}: no feature store: no folder in it holds a {COLLECTION}")
