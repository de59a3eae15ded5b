"""Packing: several examples in one sequence, without padding.

Legend: S examples, L tokens of the whole pack, n media items of a stream.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from vidtune.data.sample import MediaRef
from vidtune.media.feature_file import is_feature_file
from vidtune.media.preprocessing.kinds import Preprocessing

IGNORED = -100
"""Label of a token that is not supervised; the value torch's cross-entropy skips by default."""


@dataclass(frozen=True, slots=True)
class MediaSlot:
    """A media item whose tokens stand in an example.

    Args:
        ref: the file.
        num_tokens: how many of its tokens stand in the ids, counted from its first; at least 1.
        seed: seed of random preprocessing; None means none is random.
    """

    ref: MediaRef
    num_tokens: int
    seed: int | None = None

    @property
    def stream(self) -> str:
        return self.ref.stream

    @property
    def encoded(self) -> bool:
        """Whether the file holds what the stream's tower gives, so that the tower has nothing to do."""
        return is_feature_file(self.ref.path)


@dataclass(frozen=True, slots=True)
class Example:
    """A sample as token ids and labels; no pixel has been touched.

    Args:
        id: the sample's id.
        input_ids: (L,) int64; media tokens are their stream's placeholder id, already expanded.
        labels: (L,) int64, -100 where not supervised; aligned with `input_ids` (the model shifts).
        media: the media whose tokens stand in `input_ids`, in that order.
        masked: why no token is supervised, or None if some are (or none was meant to be).
        truncated: whether tokens were cut off.
    """

    id: str
    input_ids: np.ndarray
    labels: np.ndarray
    media: tuple[MediaSlot, ...] = ()
    masked: str | None = None
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_supervised(self) -> int:
        """Number of tokens the loss sums over; the first token of an example never counts."""
        return int(np.count_nonzero(self.labels[1:] != IGNORED))


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """The media of one stream, in the order in which their tokens stand in the ids.

    Args:
        values: (n, *shape) float or uint8 as preprocessing gave them, or a list of tensors when their shapes differ.
        encoded: for each item, whether its values are the tower's features already, (tokens, width); None: none are.
        num_tokens: for each item, how many of its tokens stand in the ids, counted from its first.
        teacher: for each item, the features that distillation aligns it with, (frames, patches, width); None: none.
        teacher_values: for each item, what a teacher is to look at to tell them, as `values`; None: nothing.
        keys: for each item, the name under which the tower's features are stored when they are computed; None: they
            are not.
        taught, teacher_keys: the same as `encoded` and `keys`, of the teacher.
    """

    values: torch.Tensor | list[torch.Tensor]
    num_tokens: list[int]
    teacher: list[torch.Tensor] | None = None
    teacher_values: list[torch.Tensor] | None = None
    encoded: list[bool] | None = None
    keys: list[str | None] | None = None
    taught: list[bool] | None = None
    teacher_keys: list[str | None] | None = None

    def __len__(self) -> int:
        return len(self.num_tokens)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "StreamBatch":
        """Move; `dtype` None keeps it."""

        return self.map(lambda tensor: tensor.to(device=device, dtype=dtype, non_blocking=True))

    def to_float(self, preprocessing: Preprocessing) -> "StreamBatch":
        """What tower and teacher take; grey levels, which are uint8, are normalised where they lie."""
        return self.map(preprocessing.to_float)

    def tensors(self) -> list[torch.Tensor]:
        """Every tensor, the teacher's as well."""
        values = self.values if isinstance(self.values, list) else [self.values]
        return [*values, *(self.teacher or ()), *(self.teacher_values or ())]

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "StreamBatch":
        """The same items with every tensor changed."""

        def each(tensors: list[torch.Tensor] | None) -> list[torch.Tensor] | None:
            return None if tensors is None else [change(tensor) for tensor in tensors]

        values = [change(value) for value in self.values] if isinstance(self.values, list) else change(self.values)
        return replace(self, values=values, teacher=each(self.teacher), teacher_values=each(self.teacher_values))

    def select(self, places: Sequence[int]) -> "StreamBatch":
        """Some of the items, in the order of ``places``."""

        def each(values: list[Any] | None) -> list[Any] | None:
            return None if values is None else [values[place] for place in places]

        chosen = StreamBatch.stack([self.values[place] for place in places], [self.num_tokens[p] for p in places])
        return replace(
            chosen,
            teacher=each(self.teacher),
            teacher_values=each(self.teacher_values),
            encoded=each(self.encoded),
            keys=each(self.keys),
            taught=each(self.taught),
            teacher_keys=each(self.teacher_keys),
        )

    @classmethod
    def stack(cls, arrays: Sequence["Array"], num_tokens: Sequence[int], encoded: Sequence[bool] = ()) -> "StreamBatch":
        """Stack where all shapes agree, else keep a list.

        Args:
            encoded: see :attr:`encoded`; nothing: no item is.
        """
        tensors = [torch.as_tensor(array) for array in arrays]
        same = len({tensor.shape for tensor in tensors}) == 1
        values = torch.stack(tensors) if same else tensors
        return cls(values, list(num_tokens), encoded=list(encoded) if any(encoded) else None)

    @classmethod
    def of(cls, items: Sequence["LoadedItem"], num_tokens: Sequence[int]) -> "StreamBatch":
        """Items as they were loaded; values are stacked where all shapes agree, what the teacher sees stays a list."""
        keys, teacher_keys = [item.key for item in items], [item.teacher_key for item in items]
        taught = [item.taught for item in items]
        seen = [torch.as_tensor(item.teacher_values) for item in items if item.teacher_values is not None]
        return replace(
            cls.stack([item.values for item in items], num_tokens, [item.encoded for item in items]),
            teacher_values=seen or None,
            keys=keys if any(keys) else None,
            taught=taught if any(taught) else None,
            teacher_keys=teacher_keys if any(teacher_keys) else None,
        )


@dataclass(frozen=True, slots=True)
class LoadedItem:
    """A media item on its way into a batch; one value of each list of a :class:`StreamBatch`."""

    values: "Array"
    encoded: bool = False
    key: str | None = None
    teacher_values: "Array | None" = None
    taught: bool = False
    teacher_key: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One pack: what one forward takes.

    Args:
        input_ids: (1, L) int64.
        position_ids: (1, L) int64, from 0 in every example.
        labels: (1, L) int64; the first label of every example is -100, so shifting never crosses examples.
        cu_seqlens: S + 1 numbers: where examples begin, and L. Python numbers, so that nothing waits for a device.
        ids: the sample ids.
        media: per stream present, its media.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    cu_seqlens: list[int]
    ids: list[str]
    media: dict[str, StreamBatch] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        return self.cu_seqlens[-1]

    @property
    def num_supervised(self) -> int:
        """Number of tokens the loss sums over. Reads the labels: call it before moving to a device."""
        return int((self.labels != IGNORED).sum())

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Batch":
        """Move everything; `dtype` is for the media values only, None keeps theirs."""
        moved = self.map(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, media={stream: batch.to(device, dtype) for stream, batch in moved.media.items()})

    def to_float(self, preprocessing: Mapping[str, Preprocessing]) -> "Batch":
        """Media as the towers take them; grey levels are normalised where they lie."""
        media = {stream: batch.to_float(preprocessing[stream]) for stream, batch in self.media.items()}
        return replace(self, media=media)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """The same pack with every tensor changed."""
        return replace(
            self,
            input_ids=change(self.input_ids),
            position_ids=change(self.position_ids),
            labels=change(self.labels),
            media={stream: batch.map(change) for stream, batch in self.media.items()},
        )

    @property
    def nbytes(self) -> int:
        """Memory of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> Iterator[torch.Tensor]:
        """Every tensor of the pack."""
        yield from (self.input_ids, self.position_ids, self.labels)
        for batch in self.media.values():
            yield from batch.tensors()


Array = np.ndarray | torch.Tensor


def pack(examples: Sequence[Example], media: Sequence[Sequence[Array | LoadedItem]]) -> Batch:
    """Join examples into one sequence.

    Args:
        examples: at least one, none empty.
        media: for each example, one array for each of `example.media`: preprocessed, or features where the file holds
            those; or the item with all that belongs to it.
    Raises:
        ValueError: no examples, or files and arrays differ in number; names the sample.
    """
    if len(media) != len(examples):
        raise ValueError(f"{len(examples)} examples but media for {len(media)}")
    streams: dict[str, tuple[list[LoadedItem], list[int]]] = {}
    for example, loaded in zip(examples, media, strict=True):
        if len(loaded) != len(example.media):
            raise ValueError(f"sample {example.id}: {len(example.media)} media but {len(loaded)} arrays")
        for slot, item in zip(example.media, loaded, strict=True):
            items, num_tokens = streams.setdefault(slot.stream, ([], []))
            items.append(item if isinstance(item, LoadedItem) else LoadedItem(item, slot.encoded))
            num_tokens.append(slot.num_tokens)
    return join(examples, {stream: StreamBatch.of(*lists) for stream, lists in streams.items()})


def join(examples: Sequence[Example], media: dict[str, StreamBatch]) -> Batch:
    """Examples in one sequence, with the media whose tokens stand in it.

    Raises:
        ValueError: no examples.
    """
    if not examples:
        raise ValueError("a pack needs at least one example")
    labels = [np.concatenate(([IGNORED], example.labels[1:])) for example in examples]
    return Batch(
        input_ids=torch.from_numpy(np.concatenate([example.input_ids for example in examples]))[None],
        position_ids=torch.cat([torch.arange(len(example)) for example in examples])[None],
        labels=torch.from_numpy(np.concatenate(labels))[None],
        cu_seqlens=[0, *accumulate(len(example) for example in examples)],
        ids=[example.id for example in examples],
        media=media,
    )
