"""Shards: safetensors files that hold the features of many items, written whole or not at all, read memory-mapped.

A shard needs no index: its tensors are named by the items' keys, and its metadata tell the rest of every entry. Any
program that reads safetensors reads it.

Legend: N tokens of an item, C tower width; features of other towers may have more dimensions.
"""

import json
import math
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PARTIAL = ".partial"
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Dtypes that features may have, by their names in safetensors files."""
MAX_HEADER = 100_000_000
"""Bytes; what safetensors itself accepts."""
ENTRIES = "vidtune"


@dataclass(frozen=True)
class Place:
    """Where an item's features lie in a shard.

    Args:
        dtype: of safetensors, such as "BF16".
        shape: of the features.
        begin, end: bytes of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a shard says about itself.

    Args:
        places: by item.
        entries: by item, what was written beside it: a checksum, where it came from.
    """

    places: dict[str, Place]
    entries: dict[str, dict[str, Any]]


def write_shard(path: Path, features: Mapping[str, Tensor], sources: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Write a shard so that it is there whole, with all its bytes on disk, or not at all.

    Args:
        features: contiguous CPU tensors of one of `DTYPES`, by item.
        sources: by item, the file that it was made from.

    Returns: the entry of every item: shape, crc32 of its bytes, source.
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
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for view in views.values():
            file.write(view)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    sync_folder(path.parent)
    return entries


def read_header(path: Path) -> Header:
    """What a shard holds.

    Raises:
        ValueError: not a whole shard; says why. OSError: it cannot be read.
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
    """A shard whose tensors are read where they lie.

    Args:
        path: of the file; kept open by nothing, and may be deleted while tensors of it are used.

    Raises:
        ValueError, OSError: see :func:`read_header`.
    """

    def __init__(self, path: Path) -> None:
        self.header = read_header(path)
        # Private: whoever writes into a tensor writes into a copy of the page.
        self._bytes: Any = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=path.stat().st_size)

    def __getitem__(self, item: str) -> Tensor:
        """An item's features. Raises KeyError for one that the shard does not hold."""
        place = self.header.places[item]
        dtype = DTYPES[place.dtype]
        strides = [math.prod(place.shape[axis + 1 :]) for axis in range(len(place.shape))]
        values = torch.empty(0, dtype=dtype)
        if place.begin % dtype.itemsize:  # of another program; ours begin at multiples of eight bytes
            whole = torch.empty(0, dtype=torch.uint8).set_(self._bytes)
            return whole[place.begin : place.end].clone().view(dtype).view(place.shape)
        return values.set_(self._bytes, place.begin // dtype.itemsize, place.shape, strides)


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor of any dtype, where they lie."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def sync_folder(folder: Path) -> None:
    """Make renames in a folder outlive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
