"""What is kept between questions: encodings of media, prefixes of prompts, and what was said after them; the least
recently used goes first.

Legend: S tokens of a conversation, G key/value heads, D head width.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

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


@dataclass(frozen=True, eq=False)
class Said:
    """Keys and values of what was said after a prefix: questions and answers.

    Args:
        tokens: (1 + axes, S) ids and positions, see `Prompt.tokens`.
        layers: layer -> keys and values, (G, S, D) each.
    """

    tokens: np.ndarray
    layers: Mapping[int, tuple[Tensor, Tensor]]

    def __len__(self) -> int:
        return self.tokens.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers.values())

    def shared(self, tokens: np.ndarray) -> int:
        """Number of tokens at the beginning that are the same in both."""
        most = min(len(self), tokens.shape[1])
        different = np.flatnonzero((self.tokens[:, :most] != tokens[:, :most]).any(0))
        return int(different[0]) if len(different) else most

    def first(self, length: int) -> "Said":
        """The first tokens of it, without a copy."""
        layers = {layer: (keys[:, :length], values[:, :length]) for layer, (keys, values) in self.layers.items()}
        return Said(self.tokens[:, :length], layers)


class Conversations:
    """What was said after kept prefixes, within a number of bytes and of conversations. For one thread.

    Args:
        most: largest number of bytes of all of them together.
        number: largest number of conversations.

    Attributes:
        used: bytes of all conversations.
    """

    def __init__(self, most: int, number: int = 256) -> None:
        self.most, self.number, self.used = most, number, 0
        self._recent: OrderedDict[Said, Hashable] = OrderedDict()
        self._after: dict[Hashable, set[Said]] = {}

    def __len__(self) -> int:
        return len(self._recent)

    def find(self, key: Hashable, tokens: np.ndarray) -> Said | None:
        """The longest known beginning of what follows a prefix, without its last token; None: there is none.

        Args:
            key: key of the prefix.
            tokens: (1 + axes, S) ids and positions.
        """
        beginning = tokens[:, :-1]
        found = max(self._after.get(key, ()), key=lambda said: said.shared(beginning), default=None)
        if found is None or not (length := found.shared(beginning)):
            return None
        self._recent.move_to_end(found)
        return found.first(length)

    def put(self, key: Hashable, said: Said) -> None:
        """Keep what was said, in the place of its own beginnings."""
        after = self._after.get(key, set())
        if said.nbytes > self.most or any(one.shared(said.tokens) == len(said) for one in after):
            return
        for one in [one for one in after if one.shared(said.tokens) == len(one)]:
            self._let_go(one)
        self._recent[said] = key
        self._after.setdefault(key, set()).add(said)
        self.used += said.nbytes
        while self.used > self.most or len(self._recent) > self.number:
            self._let_go(next(iter(self._recent)))

    def _let_go(self, said: Said) -> None:
        key = self._recent.pop(said)
        self.used -= said.nbytes
        self._after[key].remove(said)
        if not self._after[key]:
            del self._after[key]


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
