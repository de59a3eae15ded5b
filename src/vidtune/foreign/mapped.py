"""The bytes of a file as a tensor: memory-mapped, so that only what is looked at is read."""

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor


def mapped(file: BinaryIO) -> Tensor:
    """Return the bytes of an open file, or those in memory. The file may be closed afterwards.

    The mapping is private: a write into it changes a copy of the page, not the file.

    Shape: -> (number of bytes,) uint8
    """
    if isinstance(file, io.BytesIO):
        content = file.getbuffer()
        return torch.frombuffer(content, dtype=torch.uint8) if len(content) else torch.empty(0, dtype=torch.uint8)
    size = os.fstat(file.fileno()).st_size
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    opened = Path(f"/proc/self/fd/{file.fileno()}")  # the file that was checked, whatever its name leads to now
    place = str(opened) if opened.exists() else file.name
    storage: Any = torch.UntypedStorage.from_file(place, shared=False, nbytes=size)
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def numbers(content: Tensor, begin: int, end: int, dtype: torch.dtype) -> Tensor:
    """Return the numbers between two positions of what :func:`mapped` returned: a view where they are aligned, else a
    copy. Their storage holds nothing else.

    Shape: (number of bytes,) uint8 -> (numbers,)
    """
    if begin % dtype.itemsize:
        return content[begin:end].clone().view(dtype)
    storage: Any = content.untyped_storage()[begin:end]  # of its own size: what saves a tensor saves its whole storage
    return torch.empty(0, dtype=dtype).set_(storage)
