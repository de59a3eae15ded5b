"""Examples and batches: tokenised samples, and their packs, in which several examples share one sequence.

Which examples form a pack is decided in :mod:`vidtune.planning`; here they are joined, without padding.

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
"""Label of a token that is not supervised; cross-entropy of torch skips it by default."""


@dataclass(frozen=True, slots=True)
class MediaSlot:
    """A media item with tokens in an example.

    Args:
        ref: the file.
        num_tokens: number of its tokens in the ids, counted from its first token; at least 1.
        seed: seed of random preprocessing; None means that preprocessing is not random.
    """

    ref: MediaRef
    num_tokens: int
    seed: int | None = None

    @property
    def stream(self) -> str:
        """Name of the stream that reads the file."""
        return self.ref.stream

    @property
    def encoded(self) -> bool:
        """Whether the file contains tower features, so that the tower is not run."""
        return is_feature_file(self.ref.path)


@dataclass(frozen=True, slots=True)
class Example:
    """A sample as token ids and labels; no pixel has been touched.

    Args:
        id: the sample's id.
        input_ids: (L,) int64; media tokens are their stream's placeholder id, already expanded.
        labels: (L,) int64, -100 where not supervised; aligned with `input_ids` (the model shifts).
        media: the media with tokens in `input_ids`, in that order.
        masked: reason why no token is supervised; None if some are, or if none should be.
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
        """Number of tokens that the loss sums over; the first token of an example never counts."""
        return int(np.count_nonzero(self.labels[1:] != IGNORED))


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """The media of one stream, in the order of their tokens in the ids.

    Args:
        values: (n, *shape) float or uint8 as preprocessing returned them, or a list of tensors if their shapes differ.
        num_tokens: for each item, the number of its tokens in the ids, counted from its first token.
        teacher: for each item, the features that distillation aligns it with, (frames, patches, width); None without
            distillation.
        teacher_values: for each item, the input of the teacher that computes these features, as `values`; None if there
            is no teacher to run.
        encoded: for each item, whether its values are already tower features, (tokens, width); None if no item is
            encoded.
        keys: for each item, the key under which the tower features are stored after they were computed; None if they
            are not stored.
        taught, teacher_keys: as `encoded` and `keys`, for the teacher.
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
        """Move to a device; `dtype` None keeps the dtype."""

        return self.map(lambda tensor: tensor.to(device=device, dtype=dtype, non_blocking=True))

    def to_float(self, preprocessing: Preprocessing) -> "StreamBatch":
        """Values as tower and teacher take them; uint8 grey levels are normalised on their device."""
        return self.map(preprocessing.to_float)

    def tensors(self) -> list[torch.Tensor]:
        """All tensors, including those of the teacher."""
        values = self.values if isinstance(self.values, list) else [self.values]
        return [*values, *(self.teacher or ()), *(self.teacher_values or ())]

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "StreamBatch":
        """The same items with ``change`` applied to every tensor."""

        def each(tensors: list[torch.Tensor] | None) -> list[torch.Tensor] | None:
            return None if tensors is None else [change(tensor) for tensor in tensors]

        values = [change(value) for value in self.values] if isinstance(self.values, list) else change(self.values)
        return replace(self, values=values, teacher=each(self.teacher), teacher_values=each(self.teacher_values))

    def select(self, places: Sequence[int]) -> "StreamBatch":
        """The items with these indices, in this order."""

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
        """A batch of arrays, stacked if all shapes are equal, else as a list.

        Args:
            encoded: see :attr:`encoded`; empty: no item is encoded.
        """
        tensors = [torch.as_tensor(array) for array in arrays]
        same = len({tensor.shape for tensor in tensors}) == 1
        values = torch.stack(tensors) if same else tensors
        return cls(values, list(num_tokens), encoded=list(encoded) if any(encoded) else None)

    @classmethod
    def of(cls, items: Sequence["LoadedItem"], num_tokens: Sequence[int]) -> "StreamBatch":
        """A batch of loaded items; values are stacked if all shapes are equal, those of the teacher stay a list."""
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
    """A loaded media item: one entry of each list of a :class:`StreamBatch`."""

    values: "Array"
    encoded: bool = False
    key: str | None = None
    teacher_values: "Array | None" = None
    taught: bool = False
    teacher_key: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One pack: the input of one forward pass.

    Args:
        input_ids: (1, L) int64.
        position_ids: (1, L) int64, from 0 in every example.
        labels: (1, L) int64; the first label of every example is -100, so shifting never crosses examples.
        cu_seqlens: S + 1 numbers: the positions where examples begin, and L. Python numbers, so that reading them does
            not wait for a device.
        ids: ids of the samples.
        media: stream -> its media; streams without media are left out.
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
        """Number of tokens that the loss sums over. It reads the labels, so call it before moving to a device."""
        return int((self.labels != IGNORED).sum())

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Batch":
        """Move all tensors; `dtype` applies to the values of media only, None keeps their dtype."""
        moved = self.map(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, media={stream: batch.to(device, dtype) for stream, batch in moved.media.items()})

    def to_float(self, preprocessing: Mapping[str, Preprocessing]) -> "Batch":
        """The same pack with media as the towers take them; uint8 grey levels are normalised on their device."""
        media = {stream: batch.to_float(preprocessing[stream]) for stream, batch in self.media.items()}
        return replace(self, media=media)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """The same pack with ``change`` applied to every tensor."""
        return replace(
            self,
            input_ids=change(self.input_ids),
            position_ids=change(self.position_ids),
            labels=change(self.labels),
            media={stream: batch.map(change) for stream, batch in self.media.items()},
        )

    @property
    def nbytes(self) -> int:
        """Number of bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> Iterator[torch.Tensor]:
        """All tensors of the pack."""
        yield from (self.input_ids, self.position_ids, self.labels)
        for batch in self.media.values():
            yield from batch.tensors()


Array = np.ndarray | torch.Tensor


def pack(examples: Sequence[Example], media: Sequence[Sequence[Array | LoadedItem]]) -> Batch:
    """Join examples and their media into one pack.

    Args:
        examples: at least one; no example may be empty.
        media: for each example, one array for each of `example.media`: preprocessed values, or the features of a
            feature file; or a :class:`LoadedItem`.
    Raises:
        ValueError: there are no examples, or the numbers of files and arrays differ; names the sample.
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
    """Join examples into one pack, with the media of each stream already as batches.

    Raises:
        ValueError: there are no examples.
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
