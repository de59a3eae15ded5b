"""Files of ``torch.save`` and ``torch.jit.save``: the values and tensors in them, without torch's own reader.

``torch.load(weights_only=True)`` runs no code, but believes a file: it unpacks compressed records and makes memory of
any size that a file asks for. ``torch.jit.load`` calls the ``__setstate__`` methods of the archive's own code, and
TorchScript can write files (``torch.from_file``). Here, the tree of values is read by an unpickler that knows tensors
and the containers around them; a TorchScript module is a bag of attributes, and its code is never opened. A tensor is
described by the tree and lies in a record of raw numbers; it is read from there, memory-mapped, after its description
was checked against the record.

Three layouts: the zip file of ``torch.save`` (torch 1.6 and later), that of ``torch.jit.save``, and the row of pickles
before torch 1.6.
"""

import io
import math
import os
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vidtune.foreign.mapped import mapped, numbers
from vidtune.foreign.pickles import MAX_BYTES, PickleError, Record, read_pickle

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
}
"""Dtype of the numbers in a storage, by the name of its class."""
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""Begin of a file of torch before 1.6: the values of its first two pickles."""
_MAX_DIMENSIONS = 32
_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Header before a record in a zip file: signature, ..., length of its name, length of what follows the name."""
_STRANGE = {
    "_rebuild_qtensor": "quantised tensor",
    "_rebuild_sparse_tensor": "sparse tensor",
    "_rebuild_meta_tensor_no_storage": "tensor without values (meta)",
    "_rebuild_nested_tensor": "nested tensor",
    "_rebuild_wrapper_subclass": "tensor of a class of its own",
    "_rebuild_device_tensor_from_numpy": "tensor of another device",
    "_rebuild_device_tensor_from_cpu_tensor": "tensor of another device",
}
"""Tensors whose numbers do not stand for themselves, by the function that torch rebuilds them with."""
_METHODS = {
    ("torch._utils", "_rebuild_tensor"): "tensor",
    ("torch._utils", "_rebuild_tensor_v2"): "tensor",
    ("torch._utils", "_rebuild_tensor_v3"): "tensor_of_dtype",
    ("torch._utils", "_rebuild_parameter"): "first",
    ("torch._utils", "_rebuild_parameter_with_state"): "first",
    ("torch._tensor", "_rebuild_from_type_v2"): "rebuilt",
    ("torch.jit._pickle", "build_intlist"): "first",
    ("torch.jit._pickle", "build_doublelist"): "first",
    ("torch.jit._pickle", "build_boollist"): "first",
    ("torch.jit._pickle", "build_tensorlist"): "first",
    ("torch.jit._pickle", "restore_type_tag"): "first",
    ("torch", "Size"): "sizes",
    ("torch", "device"): "text",
    ("torch.serialization", "_get_layout"): "text",
    ("torch", "Tensor"): "no_call",
    ("torch.nn.parameter", "Parameter"): "no_call",
    ("torch.nn.parameter", "Buffer"): "no_call",
    ("collections", "Counter"): "table",
    ("builtins", "set"): "sizes",
    ("_codecs", "encode"): "encoded",
}
"""Functions that a tree calls -> methods of _Tree in their place."""


@dataclass(frozen=True)
class Storage:
    """A record of raw numbers: its name, their dtype, and how many there are."""

    record: str
    dtype: torch.dtype
    size: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the tree describes it: ``shape`` and ``strides`` over a storage, from ``offset`` on, in numbers."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class StrangeTensor:
    """A tensor that is not read. ``kind`` says what it is."""

    kind: str


class Module(Record):
    """Attributes of a TorchScript module, without behaviour."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise PickleError("a module in it restores itself by code of its own, which is not run")
        super().__setstate__(state)


class TorchFile:
    """A file that torch wrote. ``content`` holds :class:`StoredTensor` where the file has tensors.

    Args:
        file: a regular file open for reading, or bytes in memory; may be closed afterwards.

    Raises:
        Exception: of any type, for a file that is no such file or is damaged; its first line says why.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._numbers: dict[Storage, Tensor] = {}
        self._whole = mapped(file)
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._records: Mapping[str, tuple[int, int]] = {}
        self._checksums: Mapping[str, int] = {}
        self.is_script = False
        self.content = self._read_zip() if zipfile.is_zipfile(file) else self._read_row()

    def read(self, stored: StoredTensor) -> Tensor:
        """Return a tensor: a view of the mapped file where its numbers are aligned. Raises ValueError or KeyError."""
        _check(stored)
        row = self._numbers_of(stored.storage)
        if not math.prod(stored.shape):
            return torch.empty(stored.shape, dtype=stored.dtype)
        row = row.view(stored.dtype)
        return row.as_strided(stored.shape, stored.strides, row.storage_offset() + stored.offset)

    def _read_zip(self) -> Any:
        with zipfile.ZipFile(self._file) as archive:
            root = archive.namelist()[0].split("/")[0] + "/"
            inside = {one.filename.removeprefix(root): one for one in archive.infolist()}
        self.is_script = "constants.pkl" in inside
        self._records = {name: self._place(one) for name, one in inside.items() if one.file_size == one.compress_size}
        self._checksums = {name: one.CRC for name, one in inside.items()} if self.is_script else {}
        if "byteorder" in self._records and self._bytes("byteorder") != b"little":
            raise ValueError("its numbers are stored with the highest byte first")
        tree = io.BytesIO(self._bytes("data.pkl"))
        content = read_pickle(tree, *_Tree("data/").functions(), encoding="utf-8", limit=MAX_BYTES)
        if self.is_script and not isinstance(content, Module):
            raise PickleError("it holds no module")
        return content

    def _place(self, one: zipfile.ZipInfo) -> tuple[int, int]:
        """Begin and size of a record that is stored as it is."""
        self._file.seek(one.header_offset)
        signature, name, extra = _LOCAL_HEADER.unpack(self._file.read(_LOCAL_HEADER.size))
        begin = one.header_offset + _LOCAL_HEADER.size + name + extra
        if signature != b"PK\3\4" or one.flag_bits & 1 or begin + one.file_size > self._size:
            raise ValueError(f"record {one.filename} does not lie in the file")
        return begin, one.file_size

    def _bytes(self, name: str) -> bytes:
        begin, size = self._records[name]
        self._file.seek(begin)
        return self._file.read(size)

    def _read_row(self) -> Any:
        """Read the layout before torch 1.6: five pickles, and then the size and the numbers of each storage."""
        self._file.seek(0)
        if read_pickle(self._file, _no_name, limit=_SMALL) != _MAGIC:
            raise ValueError("no file that torch has written")
        if read_pickle(self._file, _no_name, limit=_SMALL) != _PROTOCOL:
            raise ValueError("written by an unknown version of torch")
        read_pickle(self._file, _no_name, limit=_SMALL)
        tree = _Tree("")
        content = read_pickle(self._file, *tree.functions(), encoding="utf-8", limit=MAX_BYTES)
        keys = read_pickle(self._file, _no_name, limit=MAX_BYTES)
        records = {}
        for key in keys:
            size = struct.unpack("<q", self._file.read(8))[0] * tree.dtypes[str(key)].itemsize
            begin = self._file.tell()
            if not 0 <= size <= self._size - begin:
                raise ValueError(f"storage {key} does not lie in the file")
            records[str(key)] = begin, size
            self._file.seek(begin + size)
        self._records = records
        return content

    def _numbers_of(self, storage: Storage) -> Tensor:
        """The numbers of a storage, in one row; the same memory each time."""
        if storage not in self._numbers:
            begin, size = self._records[storage.record]
            if size != storage.size * storage.dtype.itemsize:
                name = storage.record.rpartition("/")[2]
                raise ValueError(f"record {name} has {size} bytes, not {storage.size} numbers")
            if not size:
                return torch.empty(0, dtype=storage.dtype)
            checksum = self._checksums.get(storage.record)
            if checksum is not None and zlib.crc32(self._whole[begin : begin + size].numpy().data) != checksum:
                raise ValueError(f"record {storage.record} is damaged: its checksum is wrong")
            self._numbers[storage] = numbers(self._whole, begin, begin + size, storage.dtype)
        return self._numbers[storage]


_SMALL = 2**16
"""Maximum size in bytes of a pickle with a number or two."""


class _Tree:
    """What the names in a tree of values stand for."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.dtypes: dict[str, torch.dtype] = {}

    def functions(self) -> tuple[Callable[[str, str], Any], Callable[[Any], Any]]:
        """Returns the functions that :func:`read_pickle` asks for names and for references."""
        return self.find, self.refer

    def find(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module
        if module == "__torch__" or module.startswith("__torch__."):
            return Module
        if module in ("torch", "torch.storage") and name in DTYPES:
            return DTYPES[name]
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if module == "torch" and name.startswith("per_"):  # how a quantised tensor is scaled
            return name
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in _STRANGE:
            return _Strange(_STRANGE[name]).made
        if (module, name) in _METHODS:
            return getattr(self, _METHODS[module, name])
        raise PickleError(f"it names {module}.{name}, which no weights need; code in it is not run")

    def refer(self, pid: Any) -> Storage:
        kind, dtype, record, _, size, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(part is not None for part in view):
            raise PickleError(f"it refers to {str(kind)[:40]!r}, which no weights need")
        self.dtypes[str(record)] = dtype
        return Storage(f"{self._folder}{record}", dtype, int(size))

    def tensor(
        self,
        storage: Any,
        offset: Any,
        shape: Any,
        strides: Any,
        needs_grad: Any = False,
        hooks: Any = None,
        bits: Any = None,
    ) -> StoredTensor | StrangeTensor:
        if not isinstance(storage, Storage):
            raise PickleError("a tensor without a storage")
        return self.tensor_of_dtype(storage, offset, shape, strides, needs_grad, hooks, storage.dtype, bits)

    def tensor_of_dtype(
        self,
        storage: Any,
        offset: Any,
        shape: Any,
        strides: Any,
        needs_grad: Any,
        hooks: Any,
        dtype: Any,
        bits: Any = None,
    ) -> StoredTensor | StrangeTensor:
        if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
            raise PickleError("a tensor without a storage or dtype")
        if bits:
            return StrangeTensor("tensor of conjugate or negative numbers")
        return _stored(storage, dtype, offset, shape, strides)

    def rebuilt(self, function: Any, kind: Any, arguments: Any, *unused: Any) -> Any:
        if function not in (self.tensor, self.tensor_of_dtype):
            return StrangeTensor("tensor of a class of its own")
        return function(*arguments)

    def first(self, value: Any, *unused: Any) -> Any:
        return value

    def sizes(self, values: Any = ()) -> tuple[Any, ...]:
        return tuple(values) if isinstance(values, list | tuple) else ()

    def text(self, *values: Any) -> str:
        return ":".join(str(value) for value in values if isinstance(value, str | int))

    def table(self, values: Any = MappingProxyType({})) -> dict[Any, Any]:
        return dict(values) if isinstance(values, dict) else {}

    def encoded(self, text: Any, encoding: Any) -> bytes:
        if encoding != "latin1" or not isinstance(text, str):
            raise PickleError("it asks for text in another encoding")
        return text.encode("latin1")

    def no_call(self, *unused: Any) -> Any:
        raise PickleError("it makes a tensor whose values it does not hold")


@dataclass(frozen=True)
class _Strange:
    kind: str

    def made(self, *unused: Any) -> StrangeTensor:
        return StrangeTensor(self.kind)


def _no_name(module: str, name: str) -> Any:
    raise PickleError(f"it names {module}.{name}, which no weights need; code in it is not run")


def _stored(storage: Storage, dtype: torch.dtype, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    values = [int(n) for n in (offset, *shape, *strides)]
    if min(values) < 0 or len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise PickleError("a tensor of an impossible shape")
    count = len(shape)
    return StoredTensor(storage, dtype, values[0], tuple(values[1 : 1 + count]), tuple(values[1 + count :]))


def _check(stored: StoredTensor) -> None:
    """Raise ValueError where a tensor does not lie in its storage, or has more values than that."""
    held = stored.storage.size * stored.storage.dtype.itemsize // stored.dtype.itemsize
    count = math.prod(stored.shape)
    reach = stored.offset + sum((n - 1) * step for n, step in zip(stored.shape, stored.strides, strict=True))
    if count and not (stored.offset >= 0 and reach < held):
        raise ValueError(f"a tensor of shape {stored.shape} does not lie in its {held} numbers")
    if count > held:
        raise ValueError("a tensor repeats its values in place of storing them; save it .contiguous()")
