"""Shards: safetensors files that hold the features of many items, written whole or not at all, read memory-mapped.

A shard needs no index: its tensors are named by the items' keys, and its metadata tell the rest of every entry. Any
program that reads safetensors reads it.

Legend: N tokens of an item, C tower width; features of other towers may have more dimensions.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidtune.foreign import safetensors_files
from vidtune.foreign.documents import parse_json
from vidtune.foreign.files import open_foreign
from vidtune.foreign.safetensors_files import Place
from vidtune.machine.files import atomic_file

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Dtypes of features, by their names in safetensors files."""
ENTRIES = "vidtune"


@dataclass(frozen=True)
class Header:
    """Header of a shard.

    Args:
        places: position of the features, by item.
        entries: stored facts about the features (checksum, path of the source), by item.
    """

    places: dict[str, Place]
    entries: dict[str, dict[str, Any]]


def write_shard(path: Path, features: Mapping[str, Tensor], sources: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Write a shard in one step: it exists with all its bytes on disk, or not at all.

    Args:
        features: contiguous CPU tensors with one of `DTYPES`, by item.
        sources: path of the media file, by item.

    Returns:
        Entry of every item: shape, crc32 of its bytes, source.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    views = {item: raw_bytes(tensor) for item, tensor in features.items()}
    entries: dict[str, dict[str, Any]] = {
        item: {"shape": list(tensor.shape), "crc32": zlib.crc32(views[item]), "source": sources.get(item, "")}
        for item, tensor in features.items()
    }
    header: dict[str, Any] = {"__metadata__": {ENTRIES: json.dumps(entries)}}
    end = 0
    for item, tensor in features.items():
        begin, end = end, end + tensor.nbytes
        header[item] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for view in views.values():
            file.write(view)
    return entries


def read_header(path: Path) -> Header:
    """Returns the header of a shard.

    Raises:
        ValueError: the file is not a complete shard; says why.
        OSError, UserError: the file cannot be read.
    """
    with open_foreign(path, root=path.parent) as file:
        places, metadata = safetensors_files.read_header(file)
    return _header(places, metadata)


def _header(places: dict[str, Place], metadata: Mapping[str, Any]) -> Header:
    strange = next((place.dtype for place in places.values() if place.dtype not in DTYPES), None)
    if strange is not None:
        raise ValueError(f"features of dtype {strange} in its header")
    try:
        entries = parse_json(metadata.get(ENTRIES, "{}"))
        return Header(places, {item: dict(entries.get(item, {})) for item in places})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"broken entries in its header ({error})") from None


class MappedShard:
    """A memory-mapped shard.

    Args:
        path: path of the file. It does not stay open, and may be deleted while its tensors are used.

    Raises:
        ValueError, OSError, UserError: see `read_header`.
    """

    def __init__(self, path: Path) -> None:
        with open_foreign(path, root=path.parent) as file:
            self._file = safetensors_files.SafetensorsFile(file)
        self.header = _header(self._file.places, self._file.metadata)

    def __getitem__(self, item: str) -> Tensor:
        """Returns the features of an item; raises KeyError if the shard does not contain it."""
        return self._file.read(item)


def raw_bytes(tensor: Tensor) -> memoryview:
    """Returns the bytes of a contiguous CPU tensor of any dtype, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
