"""Tensors of a TorchScript archive (``torch.jit.save``), read without running the code in it.

``torch.jit.load`` calls the ``__setstate__`` methods of the archive's own code, and TorchScript can write files
(``torch.from_file``). An archive from a stranger is therefore a program, and ``torch.load`` refuses it with
``weights_only=True``. The parameters lie in a zip file: one record of raw numbers for each storage, and a pickled tree
of attributes that says where they belong. Only this tree is read here. The unpickler knows tensors, the few containers
around them and :class:`_Module`, which holds attributes and has no behaviour. Any other name is refused. The code is
never opened.
"""

import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

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
}
# Errors of pickle, zipfile and torch for a broken or unknown archive.
ARCHIVE_ERRORS = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    OverflowError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    EOFError,
)


# Functions that the tree calls -> methods of _TreeReader in their place.
_KNOWN = {
    ("torch._utils", "_rebuild_tensor_v2"): "tensor",
    ("torch._utils", "_rebuild_parameter"): "unchanged",
    ("torch.jit._pickle", "build_intlist"): "unchanged",
    ("torch.jit._pickle", "build_doublelist"): "unchanged",
    ("torch.jit._pickle", "build_boollist"): "unchanged",
    ("torch.jit._pickle", "build_tensorlist"): "unchanged",
    ("torch.jit._pickle", "restore_type_tag"): "unchanged",
}


@dataclass(frozen=True)
class _Storage:
    """A record of raw numbers."""

    record: str
    dtype: torch.dtype
    size: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the tree describes it: ``shape`` and ``strides`` over a record, from ``offset`` on."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Module:
    """Attributes of a module, without behaviour."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a module in it restores itself by code of its own, which is not run")
        self.attributes = state


class _TreeReader(pickle.Unpickler):
    """Unpickler that knows the names in :data:`_KNOWN`, records of numbers, and :class:`_Module`; nothing else.

    The archive gets bound methods to call, because pickle can set attributes of plain functions but not of those.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in _KNOWN:
            return getattr(self, _KNOWN[module, name])
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no weights need")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, record, _, size = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it refers to {kind!r}, which no weights need")
        return _Storage(str(record), dtype, int(size))

    def tensor(self, storage: _Storage, offset: int, shape: Any, strides: Any, *unused: Any) -> StoredTensor:
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        return StoredTensor(storage, offset, tuple(shape), tuple(strides))

    def unchanged(self, value: Any, *unused: Any) -> Any:
        return value


def is_script_archive(file: Path | BinaryIO) -> bool:
    """Whether a file is one that ``torch.jit.save`` wrote."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist())


class ScriptArchive:
    """The tensors of an open archive; values are read when they are asked for.

    Args:
        file: open for reading; :meth:`close` closes it.

    Raises: one of ARCHIVE_ERRORS.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._archive = zipfile.ZipFile(file)
        self._root = _root(self._archive)
        tree = _TreeReader(BytesIO(self._archive.read(self._root + "data.pkl"))).load()
        if not isinstance(tree, _Module):
            raise pickle.UnpicklingError("it holds no module")
        self._tensors = dict(_named_tensors(tree, ""))
        self.settings: dict[str, Any] = {}
        self.shapes = {name: stored.shape for name, stored in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        return _read(self._archive, self._root, self._tensors[name])

    def close(self) -> None:
        self._archive.close()
        self._file.close()


def _root(archive: zipfile.ZipFile) -> str:
    """The folder that everything in the archive stands in."""
    return archive.namelist()[0].split("/")[0] + "/"


def _named_tensors(module: _Module, prefix: str) -> Iterator[tuple[str, StoredTensor]]:
    for name, value in module.attributes.items():
        if isinstance(value, StoredTensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _named_tensors(value, f"{prefix}{name}.")


def _read(archive: zipfile.ZipFile, root: str, stored: StoredTensor) -> Tensor:
    storage = stored.storage
    record = archive.getinfo(f"{root}data/{storage.record}")
    if record.file_size != storage.size * storage.dtype.itemsize:
        raise ValueError(f"record {storage.record} has {record.file_size} bytes, not {storage.size} numbers")
    if not storage.size:
        return torch.empty(stored.shape, dtype=storage.dtype)
    numbers = torch.frombuffer(bytearray(archive.read(record)), dtype=storage.dtype)
    return numbers.as_strided(stored.shape, stored.strides, stored.offset)
