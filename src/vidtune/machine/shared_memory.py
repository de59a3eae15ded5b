"""Arrays in memory that a worker process and its parent share, so that no array passes through a pipe."""

import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ALIGNMENT = 64


class SharedArrays:
    """Memory that two processes share and that holds the arrays written last. It grows to the largest arrays so far.

    It is anonymous memory if the system has that, otherwise an unlinked temporary file. Neither is limited by the size
    of /dev/shm, and neither is left behind when both processes are killed.

    Args:
        descriptor: open file of the memory in the other process; None makes new memory.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = _anonymous_file()
        self.descriptor = descriptor
        self._memory: mmap.mmap | None = None

    def write(self, arrays: Sequence[np.ndarray[Any, Any]]) -> None:
        """Write arrays in place of those before.

        Raises:
            OSError: there is not enough memory.
        """
        size = max(sum(_room(array.nbytes) for array in arrays), mmap.PAGESIZE)
        if os.fstat(self.descriptor).st_size < size:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.descriptor, 0, size)
            else:
                os.ftruncate(self.descriptor, size)
        for view, array in zip(self._views([(a.shape, a.dtype.str) for a in arrays]), arrays, strict=True):
            np.copyto(view, array)

    def read(self, arrays: Sequence[tuple[tuple[int, ...], str]]) -> list[np.ndarray[Any, Any]]:
        """Return copies of the arrays written last.

        Args:
            arrays: shape and dtype, in numpy's short form, of each.
        """
        return [view.copy() for view in self._views(arrays)]

    def close(self) -> None:
        """Release the memory in this process."""
        self._memory = None
        os.close(self.descriptor)

    def _views(self, arrays: Sequence[tuple[tuple[int, ...], str]]) -> Iterator[np.ndarray[Any, Any]]:
        """Yield views of the arrays, which lie one after the other."""
        if not arrays:  # memory of no size cannot be mapped
            return
        counts = [math.prod(shape) for shape, _ in arrays]
        sizes = [np.dtype(dtype).itemsize * count for (_, dtype), count in zip(arrays, counts, strict=True)]
        if self._memory is None or len(self._memory) < sum(map(_room, sizes)):
            self._memory = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)
        begin = 0
        for (shape, dtype), count, size in zip(arrays, counts, sizes, strict=True):
            yield np.frombuffer(self._memory, dtype, count, begin).reshape(shape)
            begin += _room(size)


def _room(size: int) -> int:
    """Return the bytes that an array takes, rounded up so that the next one is aligned."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vidtune")
    descriptor, name = tempfile.mkstemp(prefix="vidtune-")
    Path(name).unlink()
    return descriptor
