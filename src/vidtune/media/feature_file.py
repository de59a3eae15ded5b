"""Feature files: the tower features of one media file as one array, in the formats in which systems publish them.

Legend: N tokens, C tower width. Some features have one or two dimensions more, such as levels or frames.
"""

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from vidtune.errors import MediaError
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
            return _checked(path, np.load(path, mmap_mode="r", allow_pickle=False).shape)
        if path.endswith(".safetensors"):
            with safe_open(path, framework="pt") as file:
                return _checked(path, tuple(file.get_slice(_only_name(path, list(file.keys()))).get_shape()))
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
            value = _plain(path, value)
    if not isinstance(value, np.ndarray):
        raise MediaError(path, f"holds {type(value).__name__} where one array of features is expected")
    if not np.issubdtype(value.dtype, np.floating):
        raise MediaError(path, f"holds values of type {value.dtype} where floats are expected")
    value = value.reshape(_checked(path, value.shape))
    if value.dtype not in (np.float16, np.float32):
        with np.errstate(over="ignore"):
            value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise MediaError(path, NOT_FINITE)
    return value


def _plain(path: str, value: torch.Tensor) -> np.ndarray:
    if value.is_nested or value.is_meta or value.is_quantized or value.layout != torch.strided:
        raise MediaError(path, "holds a sparse, quantised, nested or empty (meta) tensor; save a plain one")
    if value.nbytes > value.untyped_storage().nbytes():
        raise MediaError(path, "holds a tensor that repeats its values in place of storing them; save it .contiguous()")
    value = value.detach().cpu().resolve_conj().resolve_neg()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _load(path: str) -> Any:
    if path.endswith(".npy"):
        return np.load(path, allow_pickle=False)
    if path.endswith(".safetensors"):
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(_only_name(path, list(file.keys())))
    if path.endswith(".pt"):
        return torch.load(path, map_location="cpu", weights_only=True)
    with Path(path).open("rb") as pickled:
        return _ArrayUnpickler(pickled).load()


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler that builds numpy arrays, whose values all stand in the file, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        # Numpy has renamed its module "core".
        known = _PICKLED.get((module.replace("numpy._core.", "numpy.core."), name))
        if known is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only an array is read from a pickle")
        return known


def _unset_array(kind: object, shape: object, dtype: object) -> np.ndarray:
    """Array without values, which the state that follows it in a pickle gives a shape, a dtype and as many values."""
    if kind is not _ARRAY:
        raise pickle.UnpicklingError("it asks for another type of array, and only a plain one is read from a pickle")
    return np.empty(0, np.int8)


def _array_of_bytes(values: Any, dtype: np.dtype, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    array = np.frombuffer(values, dtype)
    return array.reshape(shape, order=order) if axes is None else array.reshape(shape).transpose(axes)


def _bytes_of_old_pickles(text: str, encoding: str) -> bytes:
    """Bytes as pickles of protocol 2 and below hold them, such as those of ``numpy.ndarray.dump``."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for text in {encoding}, and only an array is read from a pickle")
    return text.encode("latin1")


# What a pickled array needs.
_PICKLED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _unset_array,
    ("numpy.core.numeric", "_frombuffer"): _array_of_bytes,
    ("_codecs", "encode"): _bytes_of_old_pickles,
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
