"""Examples and batches: tokenised samples, and their packs, in which several examples share one sequence.

Which examples form a pack is decided in :mod:`vidtune.planning`; here they are joined, without padding.

Legend: S examples, L tokens of the whole pack.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError, errors_of
from vidtune.media.feature_file import is_feature_file
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.processing.positions import Positions, Span, position_ids
from vidtune.processing.stream_settings import Measured
from vidtune.registry import POSITION_RULES

IGNORED = -100
"""Label of a token that is not supervised; cross-entropy of torch skips it by default."""


LARGE = 2**26
"""Number of grey levels from which on an item is not converted to float as a whole: a quarter of a GiB of floats."""
Array = np.ndarray | torch.Tensor


@dataclass(frozen=True, slots=True)
class Teaching:
    """What a teacher sees of an item.

    Args:
        values: input of the teacher; if `done`, its features, (frames, patches, width).
        done: whether the values are features already.
        key: key under which the features are stored after they were computed; None if they are not stored.
    """

    values: torch.Tensor
    done: bool = False
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A media item of a prompt, with everything that belongs to it.

    Args:
        values: float or uint8 values as preprocessing returned them; if `encoded`, stored features.
        num_tokens: number of its tokens in the ids, counted from its first token.
        measured: what the whole item becomes, as its stream promised; None if nothing was promised.
        extras: further tensors by name, such as boxes; the connector gets them beside the features.
        encoded: whether the values are tower features, so that the tower is not run.
        key: key under which the tower features are stored after they were computed; None if they are not stored.
        teacher: what the teacher of the stream sees of the item; None without distillation.
        name: sample id and path of the file, for messages.
        prepare: makes the input of the tower from the values, or from some of their frames; None: they are it.
    """

    values: torch.Tensor
    num_tokens: int
    measured: Measured | None = None
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)
    encoded: bool = False
    key: str | None = None
    teacher: Teaching | None = None
    name: str = ""
    prepare: Callable[[torch.Tensor], torch.Tensor] | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Item":
        """Move to a device. `dtype` applies to the values, also those of the teacher; None keeps their dtype."""
        moved = self.map(lambda tensor: tensor.to(device, non_blocking=True))
        return moved if dtype is None else moved.map_values(lambda tensor: tensor.to(dtype))

    def to_float(self, preprocessing: Preprocessing) -> "Item":
        """Values as tower and teacher take them; uint8 grey levels are normalised on their device.

        Those of a large item stay as they are: the tower prepares what it takes at once, so that a long clip is never
        in float as a whole.
        """
        if self.values.dtype != torch.uint8 or self.values.numel() < LARGE or self.encoded or self.teacher is not None:
            return self.map_values(preprocessing.to_float)
        return replace(self, prepare=preprocessing.to_float)

    def tensors(self) -> list[torch.Tensor]:
        """All tensors, including those of the teacher."""
        return [self.values, *self.extras.values(), *([self.teacher.values] if self.teacher else [])]

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Item":
        """The same item with ``change`` applied to every tensor."""
        return replace(self.map_values(change), extras={name: change(extra) for name, extra in self.extras.items()})

    def map_values(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Item":
        """The same item with ``change`` applied to its values and those of its teacher, not to the extras."""
        teacher = self.teacher and replace(self.teacher, values=change(self.teacher.values))
        return replace(self, values=change(self.values), teacher=teacher)


@dataclass(frozen=True, slots=True)
class MediaSlot:
    """A media item with tokens in an example.

    Args:
        ref: the file.
        num_tokens: number of its tokens in the ids, counted from its first token; at least 1.
        seed: seed of random preprocessing; None means that preprocessing is not random.
        measured: what the whole item becomes, before anything is cut off; None: not known.
    """

    ref: MediaRef
    num_tokens: int
    seed: int | None = None
    measured: Measured | None = None

    @property
    def stream(self) -> str:
        """Name of the stream that reads the file."""
        return self.ref.stream

    @property
    def encoded(self) -> bool:
        """Whether the file contains tower features, so that the tower is not run."""
        return is_feature_file(self.ref.path)

    def item(self, values: Array, sample: str = "", extras: Mapping[str, Array] | None = None, **known: Any) -> Item:
        """The item of this slot, after its file was read.

        Args:
            values: preprocessed values, or tower features.
            sample: id of the sample, for messages.
            extras: extras that preprocessing gave; None: those of the annotation.
            known: further fields of the item, in the place of those that the file gives.
        """
        given = self.ref.extra_arrays() if extras is None else extras
        tensors = {name: torch.as_tensor(extra) for name, extra in given.items()}
        facts: dict[str, Any] = {"extras": tensors, "encoded": self.encoded, "name": f"{sample}: {self.ref.path}"}
        return Item(torch.as_tensor(values), self.num_tokens, self.measured, **{**facts, **known})


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
        owners: (L,) int64, for every token the index in `media` of the item that it stands for, -1 for text; None: not
            known.
        position_rule: name of the rule by which the tokens get their positions.
        caption: (T,) int64, the text of the sample by the tokenizer of a text tower; None: no text tower reads it.
    """

    id: str
    input_ids: np.ndarray
    labels: np.ndarray
    media: tuple[MediaSlot, ...] = ()
    masked: str | None = None
    truncated: bool = False
    owners: np.ndarray | None = None
    position_rule: str = "sequential"
    caption: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_supervised(self) -> int:
        """Number of tokens that the loss sums over; the first token of an example never counts."""
        return int(np.count_nonzero(self.labels[1:] != IGNORED))

    def spans(self) -> list[Span]:
        """The tokens as runs of text and of one media item each; one run of text if their owners are not known."""
        owners = np.full(len(self), -1) if self.owners is None else self.owners
        begins = np.flatnonzero(np.diff(owners, prepend=-2))
        found, counts = [], [0] * len(self.media)
        for owner, length in zip(owners[begins].tolist(), np.diff(begins, append=len(owners)).tolist(), strict=True):
            if owner < 0:
                found.append(Span(length))
            else:
                slot = self.media[owner]
                grid = slot.measured.grid if slot.measured else None
                found.append(Span(length, slot.stream, counts[owner], grid))
                counts[owner] += length
        return found

    def positions(self) -> Positions:
        """Positions of the tokens by the rule.

        Raises:
            UserError: there is no such rule, it raises, or it gives no positions of so many tokens.
        """
        rule, where = POSITION_RULES[self.position_rule], f"{self.id}: position rule {self.position_rule!r}"
        with errors_of(where):
            values, following = rule(self.spans())
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "iu":
            found = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
            raise UserError(f"{where} gives {found}; expected an integer array of shape (axes, {len(self)})")
        if values.ndim != 2 or not len(values) or values.shape[1] != len(self):
            raise UserError(f"{where} gives shape {values.shape}; expected (axes, {len(self)})")
        if isinstance(following, bool) or not isinstance(following, int | np.integer):
            raise UserError(f"{where} gives {following!r} as the next position; expected a whole number")
        if following < 0 or values.min(initial=0) < 0:
            raise UserError(f"{where} gives a position below 0")
        return Positions(values.astype(np.int64, copy=False), int(following))


@dataclass(frozen=True, slots=True)
class Batch:
    """One pack: the input of one forward pass.

    Args:
        input_ids: (1, L) int64.
        position_ids: (1, L) int64, or (axes, 1, L) if the positions have several axes; every example starts anew.
        labels: (1, L) int64; the first label of every example is -100, so shifting never crosses examples.
        cu_seqlens: S + 1 numbers: the positions where examples begin, and L. Python numbers, so that reading them does
            not wait for a device.
        ids: ids of the samples.
        media: stream -> its items, in the order of their tokens in the ids; streams without media are left out.
        supervised: indices in ``labels[0, 1:]`` of the tokens that the loss sums over; None: found in the labels.
        places: stream -> for each of its items, the positions of its tokens; None: not known.
        captions: for each example, the text of its sample as a text tower takes it, (T,) int64, or if `encoded`, the
            stored vector of the text; None: not known.

    ``supervised`` and ``places`` stay on the CPU, so that neither reading nor counting them waits for a device.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    cu_seqlens: list[int]
    ids: list[str]
    media: dict[str, list[Item]] = field(default_factory=dict)
    supervised: np.ndarray = field(default=None)  # type: ignore[arg-type]
    places: dict[str, list[np.ndarray]] | None = None
    captions: list[Item] | None = None

    def __post_init__(self) -> None:
        if self.supervised is None:
            object.__setattr__(self, "supervised", np.flatnonzero(self.labels[0, 1:].cpu().numpy() != IGNORED))

    @property
    def num_tokens(self) -> int:
        return self.cu_seqlens[-1]

    @property
    def num_supervised(self) -> int:
        """Number of tokens that the loss sums over."""
        return len(self.supervised)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Batch":
        """Move all tensors; `dtype` applies to the values of media only, None keeps their dtype."""
        moved = self.map(lambda tensor: tensor.to(device, non_blocking=True))
        return moved if dtype is None else moved._with_items(lambda item: item.to(device, dtype))

    def to_float(self, preprocessing: Mapping[str, Preprocessing]) -> "Batch":
        """The same pack with media as the towers take them; uint8 grey levels are normalised on their device."""
        media = {
            stream: [item.to_float(preprocessing[stream]) for item in items] for stream, items in self.media.items()
        }
        return replace(self, media=media)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """The same pack with ``change`` applied to every tensor."""
        return replace(
            self._with_items(lambda item: item.map(change)),
            input_ids=change(self.input_ids),
            position_ids=change(self.position_ids),
            labels=change(self.labels),
            captions=self.captions and [caption.map(change) for caption in self.captions],
        )

    @property
    def nbytes(self) -> int:
        """Number of bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> Iterator[torch.Tensor]:
        """All tensors of the pack."""
        yield from (self.input_ids, self.position_ids, self.labels)
        for items in (self.captions or (), *self.media.values()):
            for item in items:
                yield from item.tensors()

    def example_of(self, place: np.ndarray) -> int:
        """Number of the example in which an item stands, from the positions of its tokens."""
        return bisect_right(self.cu_seqlens, int(place[0])) - 1

    def _with_items(self, change: Callable[[Item], Item]) -> "Batch":
        return replace(self, media={stream: [change(item) for item in items] for stream, items in self.media.items()})


def pack(
    examples: Sequence[Example], media: Sequence[Sequence[Array | Item]], captions: list[Item] | None = None
) -> Batch:
    """Join examples and their media into one pack.

    Args:
        examples: at least one; no example may be empty.
        media: for each example, one item for each of `example.media`; or an array, its preprocessed values or the
            features of its feature file.
        captions: see :attr:`Batch.captions`; None: those of the examples.
    Raises:
        ValueError: there are no examples, or the numbers of files and arrays differ; names the sample.
    """
    if len(media) != len(examples):
        raise ValueError(f"{len(examples)} examples but media for {len(media)}")
    streams: dict[str, list[Item]] = {}
    for example, loaded in zip(examples, media, strict=True):
        if len(loaded) != len(example.media):
            raise ValueError(f"sample {example.id}: {len(example.media)} media but {len(loaded)} arrays")
        for slot, found in zip(example.media, loaded, strict=True):
            item = found if isinstance(found, Item) else slot.item(found, example.id)
            streams.setdefault(slot.stream, []).append(item)
    return join(examples, streams, captions)


def join(examples: Sequence[Example], media: dict[str, list[Item]], captions: list[Item] | None = None) -> Batch:
    """Join examples into one pack, with the media of all examples by stream.

    Args:
        captions: see :attr:`Batch.captions`; None: those of the examples.

    Raises:
        UserError: examples have positions of another number of axes.
        ValueError: there are no examples.
    """
    if not examples:
        raise ValueError("a pack needs at least one example")
    labels = np.concatenate([part for example in examples for part in ([IGNORED], example.labels[1:])])
    found = [example.positions().values for example in examples]
    for example, values in zip(examples, found, strict=True):
        if len(values) != len(found[0]):
            raise UserError(
                f"{example.id}: position rule {example.position_rule!r} gives {len(values)} axes, but {len(found[0])} "
                f"for sample {examples[0].id} of the same pack; give all samples the same number"
            )
    positions = np.concatenate(found, axis=1)
    bounds = [0, *accumulate(len(example) for example in examples)]
    return Batch(
        input_ids=torch.from_numpy(np.concatenate([example.input_ids for example in examples]))[None],
        position_ids=torch.from_numpy(position_ids(positions)),
        labels=torch.from_numpy(labels)[None],
        cu_seqlens=bounds,
        ids=[example.id for example in examples],
        media=media,
        places=_places(examples, bounds),
        captions=_captions(examples) if captions is None else captions,
    )


def _places(examples: Sequence[Example], bounds: Sequence[int]) -> dict[str, list[np.ndarray]] | None:
    """Positions in the pack of the tokens of every item; None if an example does not tell who owns its tokens."""
    places: dict[str, list[np.ndarray]] = {}
    for example, begin in zip(examples, bounds, strict=False):
        if example.media and example.owners is None:
            return None
        for number, slot in enumerate(example.media):
            places.setdefault(slot.stream, []).append(begin + np.flatnonzero(example.owners == number))
    return places


def _captions(examples: Sequence[Example]) -> list[Item] | None:
    found = [Item(torch.from_numpy(one.caption), len(one.caption)) for one in examples if one.caption is not None]
    return found if len(found) == len(examples) else None


def stacked(values: Sequence[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
    """Tensors as one if all shapes are equal, else as a list."""
    return torch.stack(list(values)) if len({value.shape for value in values}) == 1 else list(values)


def on_device(indices: np.ndarray, device: torch.device) -> torch.Tensor:
    """Indices on a device, copied without waiting for what the device is doing. Shape: any -> the same, int64"""
    tensor = torch.from_numpy(np.asarray(indices, np.int64))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
