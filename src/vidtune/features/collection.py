"""A collection: features of one tower with one preprocessing, in shards with an index.

Files in the folder of a collection, whose name is the hash of the tower and its preprocessing::

    collection.json   weights, tower, preprocessing and dtype of the features
    index.jsonl       one line per item: item, shard, tensor, shape, crc32 of its bytes, path of the media file
    shards/           safetensors files; the names of their tensors are the items
    failed.jsonl      media files without features, with the reason

The shards are the data, and the index is a list of them. The entries of a shard are written after the shard. If a
writer is killed in between, the shard has no entries and is found by its own header. Any number of processes may
write: each writes its own shards, and appends to the index under a lock. An item that two processes wrote exists twice,
with equal features, and is read once.
"""

import hashlib
import json
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from vidtune import __version__
from vidtune.errors import ForeignFileError, UserError
from vidtune.features.identity import weights_hash
from vidtune.features.shards import MappedShard, read_header, write_shard
from vidtune.foreign.documents import read_object
from vidtune.machine.files import remove_leftovers, write_text_atomically
from vidtune.machine.records import RecordFollower, RecordWriter
from vidtune.media.preprocessing.kinds import Preprocessing, reads_extras
from vidtune.models.config import VideoLMConfig
from vidtune.processing.stream_settings import condenses

FORMAT = 1
RULES = 1
"""Increase it when a release changes the output of preprocessing or towers for the same settings."""
COLLECTION, INDEX, SHARDS, FAILED = "collection.json", "index.jsonl", "shards", "failed.jsonl"
LOOK_AGAIN_SECONDS = 1.0
POOLED_DTYPE = "float32"
"""Dtype of single vectors; they take little room, and a norm at the end of a tower gives float32 under autocast."""
LEFT_BEHIND_SECONDS = 3600.0
"""Age in seconds from which on a temporary file belongs to a killed process."""


@dataclass(frozen=True)
class CollectionSpec:
    """Everything that determines the features of a file; identifies the collection.

    Args:
        weights: hash of the tower's weights, in the dtype in which it runs.
        tower: kind and sizes of the tower.
        preprocessing: preprocessing settings, including the sampling rule.
        dtype: dtype of the features: "float32", "bfloat16" or "float16".
        origin: information for users: system, stream, place of the weights. Not part of the identity.
        by_extras: whether the features of a file depend on the extras of the medium too. Not part of the identity.
    """

    weights: str
    tower: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    dtype: str
    origin: Mapping[str, str] = field(default_factory=dict)
    by_extras: bool = False

    @classmethod
    def of(
        cls,
        tower: nn.Module,
        config: Any,
        preprocessing: Preprocessing,
        dtype: str,
        origin: Mapping[str, str],
        taps: Sequence[int] = (),
        connector: Any = None,
        pooled: bool = False,
    ) -> "CollectionSpec":
        """Returns the spec of a built tower.

        Args:
            tower: the tower with its weights.
            config: dataclass of its sizes.
            preprocessing: preprocessing settings.
            dtype: dtype in which its features are stored.
            origin: information for users.
            taps: hidden states of the tower that are stored; empty: its output.
            connector: config of the connector; if it condenses, what it makes of the features is stored.
            pooled: whether the pooled output of the tower is stored, and not its features.
        """
        sizes = {"kind": type(config).__name__, **asdict(config), **({"taps": list(taps)} if taps else {})}
        by_extras = reads_extras(preprocessing)
        if condenses(connector):
            deciding = {name: getattr(connector, name) for name in connector.condensing}
            sizes["condensed"] = {"kind": type(connector).__name__, **deciding}
            by_extras = by_extras or bool(getattr(connector, "extras", ()))
        if pooled:
            sizes["pooled"] = True
        steps = preprocessing.model_dump(mode="json")
        return cls(weights_hash(tower.state_dict()), sizes, steps, dtype, origin, by_extras)

    @property
    def key(self) -> str:
        """Name of the collection's folder: 32 hex digits."""
        parts = {**self.made_by(), "rules": RULES}
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def made_by(self) -> dict[str, Any]:
        """Returns the parts that determine the features."""
        return {
            "weights": self.weights,
            "tower": dict(self.tower),
            "preprocessing": dict(self.preprocessing),
            "dtype": self.dtype,
        }


def stream_spec(
    config: VideoLMConfig,
    stream: str,
    tower: nn.Module,
    preprocessing: Preprocessing,
    dtype: str,
    origin: Mapping[str, str],
    pooled: bool = False,
) -> CollectionSpec:
    """Returns the spec of what a stream's tower, and its connector if that condenses, make of a file.

    Args:
        config: config of the model.
        tower: the stream's tower with its weights.
        dtype, origin: see :meth:`CollectionSpec.of`; the names of stream and tower are added to ``origin``.
        pooled: whether it is the pooled output of the tower, which is stored in float32: one vector of a file.
    """
    name = config.streams[stream]["tower"]
    named = {**origin, "stream": stream, "tower": f"towers.{name}"}
    if pooled:
        return CollectionSpec.of(tower, config.tower(name), preprocessing, POOLED_DTYPE, named, pooled=True)
    taps, connector = config.taps(stream), config.connector_of(stream)
    return CollectionSpec.of(tower, config.tower(name), preprocessing, dtype, named, taps, connector)


def text_spec(tower: Any, origin: Mapping[str, str]) -> CollectionSpec:
    """Returns the spec of the vectors that a text tower makes of token ids, see :func:`text_key`.

    Args:
        tower: transformers' CLIP text tower with its weights, in the dtype in which it runs.
        origin: see :meth:`CollectionSpec.of`.
    """
    unseen = ("num_attention_heads", "hidden_act", "layer_norm_eps")  # the others show in the shapes of the weights
    sizes = {name: getattr(tower.config, name) for name in unseen}
    named = {**origin, "stream": "text", "tower": "text tower"}
    return CollectionSpec(
        weights_hash(tower.state_dict()), {"kind": "text", **sizes}, {"kind": "ids"}, POOLED_DTYPE, named
    )


def text_key(ids: np.ndarray) -> str:
    """Returns the item of a text in the collection of a text tower, from its token ids, (T,) int64."""
    return hashlib.sha256(np.ascontiguousarray(ids, np.int64).tobytes()).hexdigest()[:32]


class Collection:
    """Features by item, memory-mapped for reading and written in shards. May be used from several threads.

    Args:
        folder: folder of an existing collection.

    Raises:
        UserError: there is no collection, or it has another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = read_about(folder)
        self._shard_of: dict[str, str] = {}
        self._mapped: dict[str, MappedShard | None] = {}
        self._present: set[str] = set()
        self._index = RecordFollower(folder / INDEX)
        self._looked = 0.0
        self._lock = threading.RLock()
        (folder / SHARDS).mkdir(exist_ok=True)
        self._read_index()
        self._adopt()

    @classmethod
    def create(cls, store: Path, spec: CollectionSpec) -> "Collection":
        """Returns the collection of a spec; creates it if it does not exist."""
        folder = store / spec.key
        if not _is_described(folder):
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
        """Returns all items in the order in which they were written."""
        with self._lock:
            return list(self._shard_of)

    def get(self, item: str) -> Tensor | None:
        """Returns the features of an item, memory-mapped; None: there are none, or they cannot be read."""
        with self._lock:
            while item in self:
                shard = self._map(self._shard_of[item])
                if shard is not None and item in shard.header.places:
                    return shard[item]
                self._forget(self._shard_of[item])
        return None

    def write(self, features: Mapping[str, Tensor], sources: Mapping[str, str]) -> int:
        """Write items as one shard, and then their lines in the index; items that exist already are skipped.

        Returns the number of items that were written.

        Args:
            features: contiguous CPU tensors with the dtype of the collection, by item.
            sources: path of the media file, by item.

        Raises:
            OSError: the shard cannot be written.
        """
        fresh = {item: tensor for item, tensor in features.items() if item not in self}
        if not fresh:
            return 0
        name = f"{uuid.uuid4().hex}.safetensors"
        entries = write_shard(self.folder / SHARDS / name, fresh, sources)
        with self._lock:
            for item in fresh:
                self._shard_of.setdefault(item, name)
        self._list(name, entries)
        return len(fresh)

    def look_again(self) -> None:
        """Read what other processes have written; does nothing if the last call was less than a second ago."""
        now = time.monotonic()
        with self._lock:
            if now - self._looked >= LOOK_AGAIN_SECONDS:
                self._read_index()

    def _read_index(self) -> None:
        """Read the lines of the index that were not read yet."""
        self._looked = time.monotonic()
        named = [(entry.get("item"), entry.get("shard")) for entry in self._index.new_records()]
        if not {shard for _, shard in named if isinstance(shard, str)} <= self._present:
            self._present = {path.name for path in (self.folder / SHARDS).iterdir()}
        for item, shard in named:
            if isinstance(item, str) and is_plain(shard) and shard in self._present:
                self._shard_of.setdefault(item, shard)

    def _adopt(self) -> None:
        """Add shards to the index whose writer was killed before it wrote their lines, or whose lines are damaged."""
        remove_leftovers(self.folder / SHARDS, LEFT_BEHIND_SECONDS)
        listed = set() if self._index.skipped else set(self._shard_of.values())
        for path in sorted((self.folder / SHARDS).iterdir()):
            if path.suffix == ".safetensors" and path.name not in listed:
                try:
                    header = read_header(path)
                except (ValueError, OSError, UserError):
                    continue  # `verify` reports it
                fresh = {item: entry for item, entry in header.entries.items() if item not in self._shard_of}
                if fresh and self._index.skipped:
                    warnings.warn(f"{self._index.path}: damaged; {len(fresh)} items found in {path.name}", stacklevel=3)
                self._shard_of.update(dict.fromkeys(fresh, path.name))
                with suppress(OSError):  # a read-only store
                    self._list(path.name, fresh)

    def _list(self, shard: str, entries: Mapping[str, Mapping[str, Any]]) -> None:
        lines = [{"item": item, "shard": shard, "tensor": item, **entry} for item, entry in entries.items()]
        append_records(self.folder / INDEX, lines)

    def _map(self, name: str) -> MappedShard | None:
        if name not in self._mapped:
            try:
                self._mapped[name] = MappedShard(self.folder / SHARDS / name)
            except (UserError, OSError, ValueError, RuntimeError) as error:
                if (self.folder / SHARDS / name).exists():
                    warnings.warn(f"{self.folder / SHARDS / name}: damaged ({error}); not used", stacklevel=2)
                self._mapped[name] = None
        return self._mapped[name]

    def _forget(self, shard: str) -> None:
        """Remove the items of a shard that was deleted or is damaged."""
        self._shard_of = {item: name for item, name in self._shard_of.items() if name != shard}


def is_plain(name: Any) -> bool:
    """Whether a name in an index is the name of a safetensors file, without a path to another folder."""
    return isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")


def _is_described(folder: Path) -> bool:
    """Whether a collection has a description; False: none, or a damaged one, which its spec can restore."""
    if not (folder / COLLECTION).is_file():
        return False
    try:
        read_about(folder)
    except DamagedCollection:
        warnings.warn(f"{folder / COLLECTION}: damaged; written again", stacklevel=3)
        return False
    return True


class DamagedCollection(UserError):
    """The description of a collection cannot be read."""


def read_about(folder: Path) -> dict[str, Any]:
    """Returns the content of collection.json.

    Raises:
        UserError: the file is missing, not valid, or has another format.
    """
    path = folder / COLLECTION
    if not path.exists():
        raise UserError(f"{folder}: no collection of features: there is no {COLLECTION}")
    try:
        about = read_object(path)
    except ForeignFileError as error:
        raise DamagedCollection(f"{error}; delete the folder to extract its features again") from None
    if about.get("format") != FORMAT:
        raise UserError(f"{path}: written by another version of vidtune; choose another store")
    return about


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write collection.json in one step."""
    text = json.dumps({"format": FORMAT, **about}, indent=1, default=str)
    write_text_atomically(folder / COLLECTION, text + "\n")


def collections(store: Path) -> Iterator[Path]:
    """Yields the folders of all collections of a store."""
    if store.is_dir():
        yield from sorted(path.parent for path in store.glob(f"*/{COLLECTION}"))


def append_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Append records to a file that other processes may append to at the same time; creates no empty file."""
    if records:
        with RecordWriter(path, shared=True) as writer:
            writer.append_all(records)
