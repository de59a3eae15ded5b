"""What is kept of media between questions: encodings, and prefixes of prompts; the least recently used goes first."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import numpy as np

from vidtune.generation.grouping import Prompt


class Kept:
    """Values by key within a number of bytes. Several threads may use it.

    Args:
        most: largest number of bytes of all values together; a value that is larger alone is not kept.

    Attributes:
        used: bytes of all values.
    """

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Any:
        """Returns a value, which becomes the last to go; None: it is not there."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: Any, nbytes: int) -> None:
        """Keep a value; the least recently used ones go until it fits."""
        with self._lock:
            if nbytes > self.most or key in self._values:
                return
            self._let_go(nbytes)
            self._values[key] = value, nbytes
            self.used += nbytes

    def make_room(self, nbytes: int) -> None:
        """Let values go until so many bytes are free, or nothing is left."""
        with self._lock:
            self._let_go(nbytes)

    def _let_go(self, nbytes: int) -> None:
        while self._values and self.used + nbytes > self.most:
            _, (_, freed) = self._values.popitem(last=False)
            self.used -= freed


def media_ends(prompt: Prompt) -> list[int]:
    """For each medium of a prompt, the number of tokens up to and including its last one."""
    owners = prompt.example.owners
    assert owners is not None
    return [int(np.flatnonzero(owners == number)[-1]) + 1 for number in range(len(prompt.example.media))]


def prefix_key(prompt: Prompt, media: tuple[Hashable, ...], end: int) -> Hashable:
    """What makes two beginnings of prompts equal: their media, ids and positions.

    Args:
        media: for each medium of the beginning, what makes two media equal.
        end: number of tokens of the beginning.
    """
    return media, np.ascontiguousarray(prompt.tokens[:, :end]).tobytes()
