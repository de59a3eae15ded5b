"""Pickles of others, read without importing or calling anything that they name.

A pickle is a program: it names functions and calls them. Here every name is asked of a function of the caller, which
answers with what stands for it or refuses it. The caller's answers are bound methods, builtin types, or classes made
by :class:`Sealed`: a pickle can set attributes of any other class or function. The numbers in a pickle that make the
reader allocate memory (lengths, places in its memo) are checked first, so reading never takes more than a few times the
size of the file.
"""

import io
import os
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

MAX_BYTES = 2**28
"""Maximum size in bytes of a pickle in which only the description of tensors stands."""
PickleError = pickle.UnpicklingError
"""Raised by the functions here, and by those of their callers, for a pickle that is not read."""
_MEMO = ("PUT", "BINPUT", "LONG_BINPUT")


class Sealed(type):
    """Metaclass of classes that a pickle may name: nothing in it can change the class."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise PickleError(f"it sets {name} of a class")


class Record(metaclass=Sealed):
    """Attributes that a pickle gave to an object, in the place of an object of the class that it names."""

    attributes: Any

    def __new__(cls, *unused: Any) -> "Record":
        made = super().__new__(cls)
        made.attributes = {}
        return made

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


def read_pickle(
    file: BinaryIO,
    find: Callable[[str, str], Any],
    refer: Callable[[Any], Any] | None = None,
    *,
    encoding: str = "ASCII",
    limit: int | None = None,
) -> Any:
    """Read the pickle that begins at the position of a file; afterwards the position is behind it.

    Args:
        file: a regular file or bytes in memory.
        find: function (module, name) -> what stands for that name; raises PickleError for a name that is not known.
        refer: function from a persistent id to what stands for it; None: there are none.
        encoding: of texts in pickles of Python 2.
        limit: maximum size in bytes; None: that of the file.

    Raises:
        PickleError: it is not complete, too large, or asks for something that is not known.
        Exception: of any other type, for a damaged pickle.
    """
    begin = file.tell()
    left = file.seek(0, os.SEEK_END) - begin
    file.seek(begin)
    end = _checked_end(_Bounded(file, left))
    if limit is not None and end - begin > limit:
        raise PickleError(f"its pickle has {end - begin:,} bytes, more than {limit:,}")
    file.seek(begin)
    return _Reader(io.BytesIO(file.read(end - begin)), find, refer, encoding).load()


class _Reader(pickle.Unpickler):
    def __init__(
        self,
        content: BinaryIO,
        find: Callable[[str, str], Any],
        refer: Callable[[Any], Any] | None,
        encoding: str,
    ) -> None:
        super().__init__(content, encoding=encoding)
        self._find, self._refer = find, refer

    def find_class(self, module: str, name: str) -> Any:
        return self._find(module, name)

    def persistent_load(self, pid: Any) -> Any:
        if self._refer is None:
            raise PickleError("it refers to something outside of it")
        return self._refer(pid)


class _Bounded:
    """The rest of a file. A request for more than there is makes no buffer of that size."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self._file, self._end = file, file.tell() + left

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._end - self._file.tell()))

    def readline(self) -> bytes:
        return self._file.readline()

    def tell(self) -> int:
        return self._file.tell()


def _checked_end(file: _Bounded) -> int:
    """Position after the pickle. Raises PickleError for a place in the memo that no pickle of its size needs."""
    for count, (opcode, value, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
        if opcode.name in _MEMO and not 0 <= int(value or 0) <= count:
            raise PickleError(f"it remembers something as number {value}")
    return file.tell()
