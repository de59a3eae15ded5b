"""Shards: safetensors files that hold the features of many items, written whole or not at all, read memory-mapped.

A shard needs no index: its tensors are named by the items' keys, and its metadata tell the rest of every entry. Any
program that reads safetensors reads it.

Legend: N tokens of an item, C tower width; features of other towers may have more dimensions.
"""

import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidtune.machine.files import atomic_file

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Dtypes of features, by their names in safetensors files."""
MAX_HEADER = 100_000_000
"""Maximum size of a header in bytes; the limit of safetensors itself."""
ENTRIES = "vidtune"


@dataclass(frozen=True)
class Place:
    """Position of an item's features in a shard.

    Args:
        dtype: name of the dtype in safetensors files, such as "BF16".
        shape: shape of the features.
        begin: position of the first byte in the file.
        end: position after the last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


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
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(MAX_HEADER, size - 8):
            raise ValueError("no safetensors header")
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        entries = json.loads(metadata.get(ENTRIES, "{}"))
        places = {item: _place(spec, 8 + length) for item, spec in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"broken safetensors header ({error})") from None
    last = max((place.end for place in places.values()), default=0)
    if last > size:
        raise ValueError(f"{size:,} of {last:,} bytes are there")
    return Header(places, {item: entries.get(item, {}) for item in places})


def _place(spec: Mapping[str, Any], start: int) -> Place:
    dtype, shape = spec["dtype"], tuple(int(length) for length in spec["shape"])
    begin, end = (start + int(offset) for offset in spec["data_offsets"])
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype}")
    if begin < start or any(n < 0 for n in shape) or math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise ValueError(f"a tensor of shape {shape} in {end - begin} bytes")
    return Place(dtype, shape, begin, end)


class MappedShard:
    """A memory-mapped shard.

    Args:
        path: path of the file. It does not stay open, and may be deleted while its tensors are used.

    Raises:
        ValueError: see `read_header`.
        OSError: see `read_header`.
    """

    def __init__(self, path: Path) -> None:
        self.header = read_header(path)
        # A private mapping: a write into a tensor changes a copy of the page, not the file.
        self._bytes: Any = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=path.stat().st_size)

    def __getitem__(self, item: str) -> Tensor:
        """Returns the features of an item; raises KeyError if the shard does not contain it."""
        place = self.header.places[item]
        dtype = DTYPES[place.dtype]
        strides = [math.prod(place.shape[axis + 1 :]) for axis in range(len(place.shape))]
        values = torch.empty(0, dtype=dtype)
        if place.begin % dtype.itemsize:  # written by another program; ours are aligned to eight bytes
            whole = torch.empty(0, dtype=torch.uint8).set_(self._bytes)
            return whole[place.begin : place.end].clone().view(dtype).view(place.shape)
        return values.set_(self._bytes, place.begin // dtype.itemsize, place.shape, strides)


def raw_bytes(tensor: Tensor) -> memoryview:
    """Returns the bytes of a contiguous CPU tensor of any dtype, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
