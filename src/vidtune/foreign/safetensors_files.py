"""Safetensors files: which tensors lie where, and their values, after everything in the header was checked."""

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vidtune.foreign.documents import parse_json
from vidtune.foreign.mapped import mapped, numbers

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
}
"""Dtypes by their names in a header."""
MAX_HEADER = 100_000_000
"""Maximum size of a header in bytes; the limit of safetensors itself."""
_METADATA = "__metadata__"


@dataclass(frozen=True)
class Place:
    """Position of a tensor.

    Args:
        dtype: name of the dtype, such as "BF16".
        shape: shape of the tensor.
        begin: position of the first byte in the file.
        end: position after the last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(file: BinaryIO) -> tuple[dict[str, Place], dict[str, Any]]:
    """Return the places of the tensors by name, and the metadata of the file.

    Raises:
        ValueError: no complete safetensors file; says why.
    """
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if length > min(MAX_HEADER, size - 8):
        raise ValueError("no safetensors header")
    try:
        header = parse_json(file.read(length))
        metadata = header.pop(_METADATA, {})
        places = {name: _place(spec, 8 + length) for name, spec in header.items()}
        if not isinstance(metadata, dict):
            raise TypeError("its metadata are no object")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"broken safetensors header ({error})") from None
    end = 8 + length
    for place in sorted(places.values(), key=lambda one: (one.begin, one.end)):
        if place.begin != end:
            raise ValueError("broken safetensors header (tensors overlap, or there are bytes between them)")
        end = place.end
    if end != size:
        raise ValueError(f"{size:,} of {end:,} bytes are there" if size < end else "there are bytes after the tensors")
    return places, metadata


def _place(spec: Mapping[str, Any], start: int) -> Place:
    dtype, shape, offsets = spec["dtype"], spec["shape"], spec["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*shape, *offsets)):
        raise ValueError("a number of a tensor is no position or length")
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype}")
    begin, end = offsets
    if math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise ValueError(f"a tensor of shape {tuple(shape)} in {end - begin} bytes")
    return Place(dtype, tuple(shape), start + begin, start + end)


class SafetensorsFile:
    """A memory-mapped safetensors file.

    Args:
        file: a regular file open for reading; may be closed afterwards, also deleted.

    Attributes:
        places: name -> place of the tensor.
        metadata: metadata of the file.

    Raises:
        ValueError: no complete safetensors file; says why.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.places, self.metadata = read_header(file)
        self._bytes = mapped(file)

    def read(self, name: str) -> Tensor:
        """Return a tensor: a view of the mapped file where it is aligned. Raises KeyError where there is none."""
        place = self.places[name]
        return numbers(self._bytes, place.begin, place.end, DTYPES[place.dtype]).view(place.shape)
