"""A collection: the features that one tower makes of files by one rule, in shards with an index.

On disk, in a folder named by the hash of what made it::

    collection.json   what made it: weights, tower, preprocessing, dtype
    index.jsonl       a line per item: item, shard, tensor, shape, crc32 of its bytes, the file it came from
    shards/           safetensors files; their tensors are named by item
    failed.jsonl      files of which there are no features, with the reason

The shards are the truth and the index a list of them: an entry is written after its shard, and a shard that no entry
names, because its writer was killed in between, is found by its own header. Any number of processes may write: each
its own shards, and the index line by line under a lock. An item that two of them wrote is there twice, equal, and read
once.
"""

import fcntl
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vidtune import __version__
from vidtune.errors import UserError
from vidtune.features.identity import weights_hash
from vidtune.features.shards import PARTIAL, MappedShard, read_header, sync_folder, write_shard
from vidtune.media.preprocessing.kinds import Preprocessing

FORMAT = 1
RULES = 1
"""Raise it when a release changes what preprocessing or towers give for the same settings: old features are not hit."""
COLLECTION, INDEX, SHARDS, FAILED = "collection.json", "index.jsonl", "shards", "failed.jsonl"
LOOK_AGAIN_SECONDS = 1.0
LEFT_BEHIND_SECONDS = 3600.0
"""Age from which on a half-written shard is nobody's any more."""


@dataclass(frozen=True)
class CollectionSpec:
    """What decides the features of a file, and with them the collection.

    Args:
        weights: hash of the tower's weights, in the dtype in which it runs.
        tower: its sizes, and what else decides what it gives.
        preprocessing: settings of it, the rule for sampling among them.
        dtype: of the features: "float32", "bfloat16" or "float16".
        origin: for people: system, stream, where the weights lie. Does not count.
    """

    weights: str
    tower: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    dtype: str
    origin: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, tower: nn.Module, config: Any, preprocessing: Preprocessing, dtype: str, origin: Mapping[str, str]
    ) -> "CollectionSpec":
        """The spec of a tower as it stands.

        Args:
            config: its dataclass of sizes.
            dtype: in which its features are stored.
            origin: see above.
        """
        sizes = {"kind": type(config).__name__, **asdict(config)}
        return cls(weights_hash(tower.state_dict()), sizes, preprocessing.model_dump(mode="json"), dtype, origin)

    @property
    def key(self) -> str:
        """32 hex digits; the name of the collection's folder."""
        parts = {**self.made_by(), "rules": RULES}
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def made_by(self) -> dict[str, Any]:
        """What counts."""
        return {
            "weights": self.weights,
            "tower": dict(self.tower),
            "preprocessing": dict(self.preprocessing),
            "dtype": self.dtype,
        }


def random_setting(preprocessing: Preprocessing) -> str | None:
    """The setting that makes preprocessing random, so that there is nothing to store; None when none does."""
    return "flip_probability" if getattr(preprocessing, "flip_probability", 0.0) else None


class Collection:
    """Features by item, read memory-mapped and written by the shard; safe to use from several threads.

    Args:
        folder: of a collection that is there.

    Raises:
        UserError: there is none, or one of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = read_about(folder)
        self._shard_of: dict[str, str] = {}
        self._mapped: dict[str, MappedShard | None] = {}
        self._present: set[str] = set()
        self._index_read = 0
        self._looked = 0.0
        self._lock = threading.RLock()
        (folder / SHARDS).mkdir(exist_ok=True)
        self._read_index()
        self._adopt()

    @classmethod
    def create(cls, store: Path, spec: CollectionSpec) -> "Collection":
        """The collection of a spec; begun when it is not there."""
        folder = store / spec.key
        if not (folder / COLLECTION).is_file():
            (folder / SHARDS).mkdir(parents=True, exist_ok=True)
            origin = {**spec.origin, "vidtune": __version__, "created": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
            write_about(folder, {"key": spec.key, "made_by": spec.made_by(), "origin": origin})
        return cls(folder)

    def __contains__(self, item: str) -> bool:
        with self._lock:
            if item not in self._shard_of:
                self.look_again()
            return item in self._shard_of

    def __len__(self) -> int:
        return len(self._shard_of)

    def items(self) -> list[str]:
        """All items, in the order in which they were written."""
        with self._lock:
            return list(self._shard_of)

    def get(self, item: str) -> Tensor | None:
        """An item's features where they lie in the file; None when there are none that can be read."""
        with self._lock:
            while item in self:
                shard = self._map(self._shard_of[item])
                if shard is not None and item in shard.header.places:
                    return shard[item]
                self._forget(self._shard_of[item])
        return None

    def write(self, features: Mapping[str, Tensor], sources: Mapping[str, str]) -> None:
        """Write a shard of items, and then their lines in the index; items that are there already are left out.

        Args:
            features: contiguous, on CPU, of the collection's dtype.
            sources: by item, the file that it was made from.

        Raises:
            OSError: it cannot be written.
        """
        fresh = {item: tensor for item, tensor in features.items() if item not in self}
        if not fresh:
            return
        name = f"{uuid.uuid4().hex}.safetensors"
        try:
            entries = write_shard(self.folder / SHARDS / name, fresh, sources)
        except OSError:
            with suppress(OSError):
                (self.folder / SHARDS / (name + PARTIAL)).unlink(missing_ok=True)
            raise
        with self._lock:
            for item in fresh:
                self._shard_of.setdefault(item, name)
        self._list(name, entries)

    def look_again(self) -> None:
        """Take up what other processes wrote; asked again within a second, it does nothing."""
        now = time.monotonic()
        with self._lock:
            if now - self._looked >= LOOK_AGAIN_SECONDS:
                self._read_index()

    def _read_index(self) -> None:
        """Take up the lines of the index that were not read yet."""
        self._looked = time.monotonic()
        path = self.folder / INDEX
        with suppress(FileNotFoundError):
            if path.stat().st_size < self._index_read:  # somebody wrote it anew
                self._index_read = 0
            with path.open("rb") as file:
                file.seek(self._index_read)
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self._index_read += len(whole)
            named = [(entry.get("item"), entry.get("shard")) for entry in parse_lines(whole)]
            if not {shard for _, shard in named if isinstance(shard, str)} <= self._present:
                self._present = {path.name for path in (self.folder / SHARDS).iterdir()}
            for item, shard in named:
                if isinstance(item, str) and is_plain(shard) and shard in self._present:
                    self._shard_of.setdefault(item, shard)

    def _adopt(self) -> None:
        """List shards that are not in the index, for their writer was killed before it wrote its lines."""
        listed = set(self._shard_of.values())
        for path in sorted((self.folder / SHARDS).iterdir()):
            if path.name.endswith(PARTIAL):
                self._remove_left_behind(path)
            elif path.suffix == ".safetensors" and path.name not in listed:
                try:
                    header = read_header(path)
                except (ValueError, OSError):
                    continue  # `verify` tells
                fresh = {item: entry for item, entry in header.entries.items() if item not in self._shard_of}
                self._shard_of.update(dict.fromkeys(fresh, path.name))
                with suppress(OSError):  # a store that may only be read
                    self._list(path.name, fresh)

    def _remove_left_behind(self, path: Path) -> None:
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFT_BEHIND_SECONDS:
                path.unlink()

    def _list(self, shard: str, entries: Mapping[str, Mapping[str, Any]]) -> None:
        lines = [{"item": item, "shard": shard, "tensor": item, **entry} for item, entry in entries.items()]
        append_lines(self.folder / INDEX, lines)

    def _map(self, name: str) -> MappedShard | None:
        if name not in self._mapped:
            try:
                self._mapped[name] = MappedShard(self.folder / SHARDS / name)
            except (OSError, ValueError, RuntimeError):
                self._mapped[name] = None
        return self._mapped[name]

    def _forget(self, shard: str) -> None:
        """A shard that was deleted, or is damaged: its items are not there."""
        self._shard_of = {item: name for item, name in self._shard_of.items() if name != shard}


def is_plain(name: Any) -> bool:
    """Whether a name from an index is that of a file in its folder, and leads nowhere else."""
    return isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")


def read_about(folder: Path) -> dict[str, Any]:
    """What collection.json says.

    Raises:
        UserError: it is not there, broken, or of another format.
    """
    path = folder / COLLECTION
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: no collection of features: there is no {COLLECTION}") from None
    except ValueError as error:
        raise UserError(f"{path}: not readable ({error}); delete the folder to extract its features again") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{path}: written by another version of vidtune; choose another store")
    return about


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write collection.json whole."""
    partial = folder / f"{COLLECTION}.{uuid.uuid4().hex}{PARTIAL}"
    partial.write_text(json.dumps({"format": FORMAT, **about}, indent=1, default=str) + "\n", encoding="utf-8")
    partial.replace(folder / COLLECTION)
    sync_folder(folder)


def collections(store: Path) -> Iterator[Path]:
    """Folders of all collections of a store."""
    if store.is_dir():
        yield from sorted(path.parent for path in store.glob(f"*/{COLLECTION}"))


def append_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON lines in one piece, whatever other processes append; a torn line before them stays alone."""
    text = "".join(json.dumps(entry, default=str) + "\n" for entry in entries).encode()
    if not text:
        return
    with path.open("ab+", buffering=0) as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
            text = b"\n" + text
        rest = memoryview(text)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def parse_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """The entries of whole JSON lines; what is no entry is passed over."""
    for line in content.splitlines():
        with suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                yield entry
