"""Reader of the files of a step checkpoint: plain values and tensors, whatever else the files may hold.

``torch.distributed.checkpoint`` writes them: ``.metadata``, a pickle that says which part of which tensor lies where,
and ``__<rank>_<n>.distcp``, a row of what ``torch.save`` writes. Its own reader unpickles the first, and the values in
the second that are no tensors, so that a planted file runs code. This one reads both by names that it knows.
"""

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from vidtune.foreign.files import open_foreign, reading
from vidtune.foreign.pickles import MAX_BYTES, PickleError, Record, read_pickle
from vidtune.foreign.torch_files import StoredTensor, TorchFile

METADATA = ".metadata"
_VALUES = re.compile(r"__\d+_\d+\.distcp")
_PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class ValuePlace:
    """Where a part of a step checkpoint lies: ``length`` bytes from ``offset`` on in a file of its folder.

    torch writes an object of a class of its own, of which these attributes are read.
    """

    relative_path: str
    offset: int
    length: int


class StepReader(dcp.FileSystemReader):
    """Reads a step checkpoint for ``dcp.load``, in the place of torch's own reader.

    Args:
        folder: the checkpoint.

    Raises:
        ForeignFileError: a file is missing, damaged, or holds more than weights and plain values.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder, self._metadata = folder, read_metadata(folder)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> "Future[None]":
        by_file: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            by_file.setdefault(self.storage_data[item.storage_index].relative_path, []).append(item)
        for name, items in by_file.items():
            path = self._folder / name
            with open_foreign(path, root=self._folder) as file, reading(path):
                for item in items:
                    self._read(file, item, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read(self, file: BinaryIO, item: ReadItem, planner: LoadPlanner) -> None:
        place = self.storage_data[item.storage_index]
        file.seek(place.offset)
        content = io.BytesIO(file.read(place.length))
        if item.type == LoadItemType.BYTE_IO:
            planner.load_bytes(item, content)
            return
        tensor = _tensor(content)
        for axis, (begin, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
            tensor = tensor.narrow(axis, begin, length)
        target = planner.resolve_tensor(item).detach()
        if target.shape != tensor.shape:
            raise ValueError(f"{item.storage_index.fqn}: shape {tuple(tensor.shape)}, expected {tuple(target.shape)}")
        target.copy_(tensor)
        planner.commit_tensor(item, target)


class StepPlanner(dcp.DefaultLoadPlanner):
    """Puts the values of a step checkpoint that are no tensors into the state, where values of their kind stand."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        name = read_item.dest_index.fqn
        *way, last = self.mappings[name]
        holder: Any = self.original_state_dict
        for key in way:
            holder = holder[key]
        found = TorchFile(value).content
        if not _is_like(found, holder[last]):
            raise ValueError(f"{name} is of type {type(found).__name__}, expected {type(holder[last]).__name__}")
        holder[last] = found


def read_metadata(folder: Path) -> Metadata:
    """Returns which part of which tensor lies where in the files of a step checkpoint.

    Raises:
        ForeignFileError: the file is missing or damaged, names anything else, or leads out of the folder.
    """
    path = folder / METADATA
    with open_foreign(path, root=folder, limit=MAX_BYTES) as file, reading(path):
        whole = read_pickle(file, _Names().find)
        if not isinstance(whole, Record):
            raise PickleError("it holds no metadata")
        parts = {name: _part(name, part.attributes) for name, part in whole.attributes["state_dict_metadata"].items()}
        places = dict(_place(*pair) for pair in whole.attributes["storage_data"].items())
        return Metadata(parts, storage_data=places, storage_meta=StorageMeta())


class _Names:
    """What the names in ``.metadata`` stand for."""

    _RECORDS = (
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties"),
        *("TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
    )
    _OTHERS: Mapping[tuple[str, str], str] = {
        ("torch", "Size"): "sizes",
        ("torch.serialization", "_get_layout"): "ignored",
        ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"): "ignored",
        ("pathlib", "PosixPath"): "ignored",
        ("pathlib", "WindowsPath"): "ignored",
    }

    def find(self, module: str, name: str) -> Any:
        if module == "torch.distributed.checkpoint.metadata" and name in self._RECORDS:
            return Record
        if (module, name) == ("torch.distributed.checkpoint.filesystem", "_StorageInfo"):
            return Record
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if (module, name) in self._OTHERS:
            return getattr(self, self._OTHERS[module, name])
        raise PickleError(f"it names {module}.{name}, which no step checkpoint needs")

    def sizes(self, values: Any) -> tuple[int, ...]:
        return _lengths(values)

    def ignored(self, *values: Any) -> None:
        return None


def _lengths(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(type(value) is int and value >= 0 for value in values):
        raise PickleError("a tensor of an impossible shape")
    return tuple(values)


def _part(name: str, about: dict[str, Any]) -> TensorStorageMetadata | BytesStorageMetadata:
    """A tensor, or another value, which says nothing about itself."""
    if not about:
        return BytesStorageMetadata()
    size = _lengths(about["size"])
    dtype = about["properties"].attributes[0]
    if not isinstance(dtype, torch.dtype):
        raise PickleError(f"{name} has no dtype")
    chunks = [
        ChunkStorageMetadata(torch.Size(_lengths(offsets)), torch.Size(_lengths(sizes)))
        for offsets, sizes in ((part.attributes["offsets"], part.attributes["sizes"]) for part in about["chunks"])
    ]
    if sum(math.prod(chunk.sizes) for chunk in chunks) < math.prod(size):
        raise PickleError(f"parts of {name} are missing")
    return TensorStorageMetadata(TensorProperties(dtype), torch.Size(size), chunks)


def _place(key: Any, value: Any) -> tuple[MetadataIndex, ValuePlace]:
    """Where a part lies. Raises PickleError where that is no file of the checkpoint."""
    index, about = key.attributes, value.attributes
    name, begin, length = about["relative_path"], about["offset"], about["length"]
    if not isinstance(name, str) or _VALUES.fullmatch(name) is None:
        raise PickleError(f"it names {str(name)[:80]!r}, which is no file of a step checkpoint")
    if about.get("transform_descriptors"):
        raise PickleError("its values are compressed")
    begin, length = _lengths((begin, length))
    offset = index.get("offset")
    where = MetadataIndex(str(index["fqn"]), None if offset is None else _lengths(offset), index.get("index"))
    return where, ValuePlace(name, begin, length)


def _tensor(content: BinaryIO) -> Tensor:
    file = TorchFile(content)
    if not isinstance(file.content, StoredTensor):
        raise TypeError(f"it holds {type(file.content).__name__} where a tensor is expected")
    return file.read(file.content)


def _is_like(found: Any, known: Any) -> bool:
    """Whether a value is plain, and of the kind of another; numbers are one kind, and so are lists and tuples."""
    if isinstance(found, list | tuple):
        return isinstance(known, list | tuple | type(None)) and all(_is_like(value, None) for value in found)
    if known is None or found is None:
        return isinstance(found, _PLAIN)
    numbers = (bool, int, float)
    return isinstance(found, _PLAIN) and (
        isinstance(known, numbers) == isinstance(found, numbers) and isinstance(known, str) == isinstance(found, str)
    )
