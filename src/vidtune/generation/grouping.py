"""Grouping of requests: by media, and within a group by the prefix of the prompt."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, islice

import numpy as np
from torch import Tensor

from vidtune.data.sample import MediaRef
from vidtune.errors import MediaError
from vidtune.generation.settings import Answer
from vidtune.media.pool import LoadResult
from vidtune.processing.batch import Example
from vidtune.processing.positions import Positions


@dataclass(frozen=True)
class Prompt:
    """A request as token ids.

    Args:
        example: ids with expanded placeholders, ending with the open answer; its id is the id of the request.
        media_end: number of ids up to and including the last media token; 0 without media.
        max_new_tokens: largest number of tokens of this answer, at least 1.
        options: answers whose likelihoods are compared, each as text and as token ids; none: the answer is generated.
        forced: token ids of a given answer, in the place of which the model's tokens are asked; none: there is none.
    """

    example: Example
    media_end: int
    max_new_tokens: int
    options: tuple[tuple[str, tuple[int, ...]], ...] = ()
    forced: tuple[int, ...] = ()

    @property
    def ids(self) -> np.ndarray:
        return self.example.input_ids

    @property
    def kind(self) -> str:
        """How it is answered; prompts of one kind are answered together."""
        return "options" if self.options else "forced" if self.forced else "text"

    @property
    def untrained(self) -> str:
        """Which numbers of frames its videos have that the model was not trained with; empty: none."""
        told = (slot.measured.untrained for slot in self.example.media if slot.measured is not None)
        return "; ".join(dict.fromkeys(filter(None, told)))

    @cached_property
    def positions(self) -> Positions:
        """Positions of the ids."""
        return self.example.positions()

    @property
    def tokens(self) -> np.ndarray:
        """What makes two prompts equal: the ids and, on every axis, the positions. Shape: (1 + axes, L)"""
        return np.vstack((self.ids, self.positions.values))


@dataclass
class MediaGroup:
    """Prompts about the same media, which are decoded once.

    Args:
        media: the files.
        prompts: empty if the request of the group could not be turned into a prompt.
        refused: answers to such requests.
        loaded: the loaded media in the order of ``media``, filled by :meth:`add`; None where features were found.
        features: features that were found in the place of a medium, in the order of ``media``, filled by :meth:`find`.
        error: error of the first file that could not be loaded.
        num_loaded: number of files that were loaded, found or failed.
    """

    media: tuple[MediaRef, ...]
    prompts: list[Prompt] = field(default_factory=list)
    refused: list[Answer] = field(default_factory=list)
    loaded: list[LoadResult | None] = field(default_factory=list)
    features: list[Tensor | None] = field(default_factory=list)
    error: MediaError | None = None
    num_loaded: int = 0

    @property
    def complete(self) -> bool:
        """Whether all files were loaded or failed."""
        return self.num_loaded == len(self.media)

    def find(self, find: Callable[[MediaRef], Tensor | None]) -> list[MediaRef]:
        """Look for features of the media. Returns the media without them, which are loaded in this order."""
        self.features = [find(ref) for ref in self.media]
        self.loaded = [None] * len(self.media)
        missing = [ref for ref, features in zip(self.media, self.features, strict=True) if features is None]
        self.num_loaded = len(self.media) - len(missing)
        return missing

    def add(self, result: LoadResult) -> None:
        """Add the next file: its preprocessed values, or its error."""
        waiting = [place for place, features in enumerate(self.features) if features is None]
        self.loaded[waiting[self.num_loaded - (len(self.media) - len(waiting))]] = result
        self.num_loaded += 1
        self.error = self.error or result.error

    def by_prefix(self) -> list[list[Prompt]]:
        """The prompts in lists, each of which shares its common beginning as prefix.

        Prompts with equal ids up to the last media token form a list. Those that no other prompt equals, as with a
        question before the media, form one list together.
        """
        equal: dict[bytes, list[Prompt]] = {}
        for prompt in self.prompts:
            equal.setdefault(prompt.ids[: prompt.media_end].tobytes(), []).append(prompt)
        single = [prompts[0] for prompts in equal.values() if len(prompts) == 1]
        return [prompts for prompts in (*(p for p in equal.values() if len(p) > 1), single) if prompts]


def group_by_media(prompts: Iterable[Prompt | Answer], window: int | None, share: bool = True) -> Iterator[MediaGroup]:
    """Group prompts by media, in the order of their first appearance.

    Args:
        prompts: prompts in any order; an answer with an error stands in the place of its prompt.
        window: number of prompts that are grouped at a time, and held in memory; None: those next to each other with
            the same media, of prompts that are sorted already.
        share: False gives every prompt its own group.
    """
    for items in _taken(prompts, window):
        groups: dict[object, MediaGroup] = {}
        for place, item in enumerate(items):
            if isinstance(item, Answer):
                groups[place] = MediaGroup((), refused=[item])
            else:
                media = _media(item) or ()
                groups.setdefault(media if share else place, MediaGroup(media)).prompts.append(item)
        yield from groups.values()


def _taken(prompts: Iterable[Prompt | Answer], window: int | None) -> Iterator[list[Prompt | Answer]]:
    """The prompts in lists that are grouped one after the other."""
    if window is None:
        yield from (list(alike) for _, alike in groupby(prompts, _media))
        return
    rest = iter(prompts)
    while items := list(islice(rest, window)):
        yield items


def _media(item: Prompt | Answer) -> tuple[MediaRef, ...] | None:
    return None if isinstance(item, Answer) else tuple(slot.ref for slot in item.example.media)


def common_length(prompts: Sequence[Prompt]) -> int:
    """Number of tokens of the longest common beginning of all prompts.

    After it, every prompt has a token at least, and no media item stands on both sides of its end.
    """
    first, *others = (prompt.tokens for prompt in prompts)
    limit = min(len(prompt.ids) for prompt in prompts) - 1
    for tokens in others:
        different = np.flatnonzero((tokens[:, :limit] != first[:, :limit]).any(0))
        limit = int(different[0]) if len(different) else limit
    owners = prompts[0].example.owners
    if owners is not None:
        divided = np.isin(owners[:limit], owners[limit:]) & (owners[:limit] >= 0)
        limit = int(divided.argmax()) if divided.any() else limit
    return limit
