"""Which requests are answered together: those about the same media, and among them those with the same prefix."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from vidtune.data.sample import MediaRef
from vidtune.errors import MediaError
from vidtune.generation.settings import Answer
from vidtune.media.pool import LoadResult
from vidtune.processing.batch import Example


@dataclass(frozen=True)
class Prompt:
    """A request as token ids.

    Args:
        example: ids with expanded placeholders, ending with the open answer; its id is the request's.
        media_end: number of ids up to and including the last media token; 0 without media.
        max_new_tokens: limit for this answer, at least 1.
    """

    example: Example
    media_end: int
    max_new_tokens: int

    @property
    def ids(self) -> np.ndarray:
        return self.example.input_ids


@dataclass
class MediaGroup:
    """Prompts about the same media, which are decoded once.

    Args:
        prompts: may be empty, when a request could not be made a prompt.
        refused: answers to such requests.
        arrays: preprocessed media, filled by :meth:`add` in the order of ``media``.
        error: the first file that could not be loaded.
    """

    media: tuple[MediaRef, ...]
    prompts: list[Prompt] = field(default_factory=list)
    refused: list[Answer] = field(default_factory=list)
    arrays: list[np.ndarray] = field(default_factory=list)
    error: MediaError | None = None
    num_loaded: int = 0

    @property
    def complete(self) -> bool:
        return self.num_loaded == len(self.media)

    def add(self, result: LoadResult) -> None:
        """Take the next file's pixels, or what is wrong with it."""
        self.num_loaded += 1
        if result.array is not None:
            self.arrays.append(result.array)
        self.error = self.error or result.error

    def by_prefix(self) -> list[list[Prompt]]:
        """The prompts in parts with equal ids up to the end of the media, which are encoded once."""
        parts: dict[bytes, list[Prompt]] = {}
        for prompt in self.prompts:
            parts.setdefault(prompt.ids[: prompt.media_end].tobytes(), []).append(prompt)
        return list(parts.values())


def group_by_media(prompts: Iterable[Prompt | Answer], window: int, share: bool = True) -> Iterator[MediaGroup]:
    """Group prompts by media, in the order of their first appearance.

    Args:
        prompts: in any order; refusals stand where their prompt would.
        window: prompts looked at together; only this many are held at a time.
        share: False gives every prompt a group of its own.
    """
    rest = iter(prompts)
    while items := list(islice(rest, window)):
        groups: dict[object, MediaGroup] = {}
        for place, item in enumerate(items):
            if isinstance(item, Answer):
                groups[place] = MediaGroup((), refused=[item])
            else:
                media = tuple(slot.ref for slot in item.example.media)
                groups.setdefault(media if share else place, MediaGroup(media)).prompts.append(item)
        yield from groups.values()


def common_length(rows: Sequence[np.ndarray]) -> int:
    """Length of the longest beginning that all rows share, at least one id being left over in every row."""
    limit = min(len(row) for row in rows) - 1
    for row in rows[1:]:
        different = np.flatnonzero(row[:limit] != rows[0][:limit])
        limit = int(different[0]) if len(different) else limit
    return limit
