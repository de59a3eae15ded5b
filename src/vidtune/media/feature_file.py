"""Feature files: the tower features of one media file as one array, in the formats in which systems publish them.

Legend: N tokens, C tower width. Some features have one or two dimensions more, such as levels or frames.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import torch

from vidtune.errors import MediaError
from vidtune.foreign.files import open_foreign
from vidtune.foreign.pickles import PickleError, Record, read_pickle
from vidtune.foreign.safetensors_files import SafetensorsFile, read_header
from vidtune.foreign.torch_files import StoredTensor, StrangeTensor, TorchFile
from vidtune.media.first_look import check_file, media_errors

FEATURE_SUFFIXES = (".npy", ".pt", ".pkl", ".safetensors")
MAX_DIMENSIONS = 4
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ARRAY = object()
"""What a pickle gets for ``numpy.ndarray``, which it may name but not call: a call gives memory that nobody has set."""
NOT_FINITE = "holds values that are not finite in float32 (NaN, infinity or too large)"
"""Reason of the error of a feature file with such values."""


def is_feature_file(path: str) -> bool:
    """Whether a path names a feature file, by its suffix; any other path is a media file."""
    return path.endswith(FEATURE_SUFFIXES)


def feature_shape(path: str) -> tuple[int, ...]:
    """Return the shape of a feature file, (N, C) or longer; of ``.npy`` and ``.safetensors`` only the header is read.

    Raises:
        MediaError: as `read_features`.
    """
    with _readable(path):
        if path.endswith(".npy"):
            with open_foreign(path, failure=MediaError) as file:
                return _checked(path, _npy_header(path, file)[0])
        if path.endswith(".safetensors"):
            with open_foreign(path, failure=MediaError) as file:
                places, _ = read_header(file)
                return _checked(path, places[_only_name(path, list(places))].shape)
    return read_features(path).shape


def read_features(path: str) -> np.ndarray:
    """Return the array of a feature file. One dimension means one token; bfloat16 becomes float32.

    Shape: -> float16 or float32 (N, C) or longer
    Raises:
        MediaError: missing, damaged, not one array of finite real numbers with one to four dimensions, or a
            pickle that holds anything else. Code in a pickle is never executed.
    """
    with _readable(path):
        value = _load(path)
        if isinstance(value, torch.Tensor):
            value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if not isinstance(value, np.ndarray):
        raise MediaError(path, f"holds {type(value).__name__} where one array of features is expected")
    _require_floats(path, value.dtype)
    value = value.reshape(_checked(path, value.shape))
    if value.dtype not in (np.float16, np.float32):
        with np.errstate(over="ignore"):
            value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise MediaError(path, NOT_FINITE)
    return value


def _load(path: str) -> Any:
    with open_foreign(path, failure=MediaError) as file:
        if path.endswith(".npy"):
            return _read_npy(path, file)
        if path.endswith(".safetensors"):
            opened = SafetensorsFile(file)
            return opened.read(_only_name(path, list(opened.places))).clone()
        return _read_torch(path, file) if path.endswith(".pt") else _read_array(path, file)


def _read_torch(path: str, file: BinaryIO) -> Any:
    opened = TorchFile(file)
    value = opened.content
    if isinstance(value, StrangeTensor):
        raise MediaError(path, f"holds a {value.kind}; save a plain one")
    return opened.read(value).clone() if isinstance(value, StoredTensor) else value


def _npy_header(path: str, file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and dtype; the position of the file is then that of the first value."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise MediaError(path, f"is an .npy file of version {version}; save it as numpy does for floats")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(file)
    _require_floats(path, dtype)
    _require_length(path, shape, dtype, os.fstat(file.fileno()).st_size - file.tell())
    return shape, columns_first, dtype


def _read_npy(path: str, file: BinaryIO) -> np.ndarray:
    shape, columns_first, dtype = _npy_header(path, file)
    values = np.fromfile(file, dtype, count=math.prod(shape))
    return values.reshape(shape, order="F" if columns_first else "C")


def _require_floats(path: str, dtype: Any) -> None:
    if not np.issubdtype(dtype, np.floating):
        raise MediaError(path, f"holds values of type {dtype} where floats are expected")


def _require_length(path: str, shape: tuple[int, ...], dtype: np.dtype, size: int) -> None:
    """Raise MediaError unless ``size`` bytes hold exactly the values of such an array."""
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed != size:
        raise MediaError(path, f"is no file of features: {size:,} bytes where shape {shape} has {needed:,}")


class _Dtype(Record):
    """A dtype as a pickle describes it; its attributes begin with a version and the order of bytes."""

    text: Any = None


class _Array(Record):
    """An array as a pickle describes it; its attributes are version, shape, dtype, columns first, and values."""


def _read_array(path: str, file: BinaryIO) -> Any:
    """Array of a pickle. Numpy gets nothing of it but the bytes of the values, after shape and dtype were checked."""
    value = read_pickle(file, _PickledArray().find)
    if not isinstance(value, _Array):
        return value
    _, shape, dtype, columns_first, values = value.attributes
    if not isinstance(dtype, _Dtype) or dtype.text not in _FLOATS:
        raise MediaError(path, f"holds values of type {getattr(dtype, 'text', dtype)} where floats are expected")
    order = dtype.attributes[1] if isinstance(dtype.attributes, tuple) else "="
    plain = np.dtype(dtype.text).newbyteorder("=" if order == "|" else order)
    if not isinstance(values, bytes | bytearray) or not all(type(length) is int for length in shape):
        raise MediaError(path, "is no file of features: its values are not there")
    _require_length(path, shape, plain, len(values))
    return np.frombuffer(values, plain).reshape(shape, order="F" if columns_first else "C").copy()


class _PickledArray:
    """What the names in a pickled array stand for."""

    def find(self, module: str, name: str) -> Any:
        # Numpy has renamed its module "core".
        known = _PICKLED.get((module.replace("numpy._core.", "numpy.core."), name))
        if known is None:
            raise PickleError(f"it asks for {module}.{name}, and only an array is read from a pickle")
        return _ARRAY if known == "array" else getattr(self, known)

    def dtype(self, text: Any, *unused: Any) -> _Dtype:
        made = _Dtype()
        made.text = text
        return made

    def unset_array(self, kind: object, shape: object, dtype: object) -> _Array:
        """Array without values; the state that follows it in a pickle has its shape, dtype and values."""
        if kind is not _ARRAY:
            raise PickleError("it asks for another type of array, and only a plain one is read from a pickle")
        return _Array()

    def array_of_bytes(self, values: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
        if axes is not None:
            raise PickleError("it holds an array whose axes are exchanged; save it by np.ascontiguousarray")
        made = _Array()
        made.attributes = (1, shape, dtype, order == "F", values)
        return made

    def bytes_of_old_pickles(self, text: str, encoding: str) -> bytes:
        """Bytes as pickles of protocol 2 and below hold them, such as those of ``numpy.ndarray.dump``."""
        if encoding != "latin1":
            raise PickleError(f"it asks for text in {encoding}, and only an array is read from a pickle")
        return text.encode("latin1")


_FLOATS = ("f2", "f4", "f8", "f16")
# What a pickled array needs.
_PICKLED = {
    ("numpy", "ndarray"): "array",
    ("numpy", "dtype"): "dtype",
    ("numpy.core.multiarray", "_reconstruct"): "unset_array",
    ("numpy.core.numeric", "_frombuffer"): "array_of_bytes",
    ("_codecs", "encode"): "bytes_of_old_pickles",
}


def _only_name(path: str, names: list[str]) -> str:
    if len(names) != 1:
        raise MediaError(path, f"holds {len(names)} tensors where one is expected")
    return names[0]


def _checked(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise MediaError(path, f"has shape {tuple(shape)} where (tokens, width) is expected")
    return (1, *shape) if len(shape) == 1 else tuple(shape)


@contextmanager
def _readable(path: str) -> Iterator[None]:
    with media_errors(path):
        check_file(path)
        try:
            yield
        except (MediaError, OSError):
            raise
        except Exception as error:  # readers of damaged files and torch raise errors of many types
            reason = _COLOURS.sub("", next(iter(str(error).splitlines()), type(error).__name__))
            raise MediaError(path, f"is not a file of features ({reason})") from None
