"""Inputs for plain transformers code: media read at once and shared among questions, prompts padded into one tensor."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.media.preprocessing.kinds import among
from vidtune.media.worker import Loaded, LoadJob, execute
from vidtune.processing.batch import Item, MediaSlot
from vidtune.processing.prompts.placing import media_tags
from vidtune.processing.readings import MediaReader
from vidtune.processing.stream_settings import Measured

ReadItem = tuple[MediaRef, Measured, Loaded]
"""What one stream read of a media item: its file, what it becomes, and the values that its tower takes."""


def read_media(
    reader: MediaReader, questions: Sequence[str], items: Mapping[str, Sequence[Any]]
) -> list[list[tuple[MediaRef, list[ReadItem]]]]:
    """The media of each question in the order of its tags, each with its readings.

    Args:
        items: stream -> paths or decoded pixels, for all questions together.

    Raises:
        SampleProblem: tags and media differ in number, or the media cannot be shared evenly.
    """
    tags = [[tag[1] for tag in media_tags(question, items)] for question in questions]
    shares = share_media(tags, {stream: len(given) for stream, given in items.items()})
    rest = {stream: iter(given) for stream, given in items.items()}
    media = []
    for share in shares:
        read = [read_item(reader, stream, next(rest[stream]), share.count(stream)) for stream in share]
        refs = [MediaRef(stream, found[0][0].path if found else "") for stream, found in zip(share, read, strict=True)]
        media.append(list(zip(refs, read, strict=True)))
    return media


def share_media(questions: Sequence[Sequence[str]], counts: Mapping[str, int]) -> list[list[str]]:
    """Streams of the media of each question, in the order of its tags.

    Args:
        questions: for each question the streams of its tags, in order. If no question has tags, every question gets the
            same number of items.
        counts: stream -> number of items for all questions together.

    Raises:
        SampleProblem: tags and media differ in number, or the media cannot be shared evenly.
    """
    if not any(questions):
        if any(count % len(questions) for count in counts.values()):
            raise SampleProblem(
                "tags and media differ in number", f"{len(questions)} questions without tags cannot share the media"
            )
        share = [stream for stream, count in counts.items() for _ in range(count // len(questions))]
        return [list(share) for _ in questions]
    for stream, count in counts.items():
        if (tags := sum(list(question).count(stream) for question in questions)) != count:
            raise SampleProblem(
                "tags and media differ in number", f"{tags} <{stream}> in the text but {count} {stream} items"
            )
    return [list(question) for question in questions]


def read_item(reader: MediaReader, stream: str, item: Any, number: int = 1) -> list[ReadItem]:
    """The readings of a path, or of decoded pixels, each with the values that its tower takes.

    Args:
        number: number of items of the stream in the prompt.

    Raises:
        UserError: the pixels are no uint8 RGB, ([T,] H, W, 3).
    """
    if not isinstance(item, str | Path):
        settings = reader.streams[stream]
        pixels, steps = _pixels(stream, item), among(settings.preprocessing, number)
        array = steps.apply(pixels).numpy()
        extras = steps.extras_of(pixels) if hasattr(steps, "extras_of") else None
        return [(MediaRef(stream, ""), settings.measure(array.shape), Loaded(array, None, extras))]
    found = []
    [counted, *_] = reader.counted([MediaRef(stream, str(item))] * number)
    for ref, measured in reader.readings(counted):
        preprocessing = reader.settings_of(ref).preprocessing
        loaded = execute(LoadJob(ref.path, preprocessing, extras=ref.extras, frames=ref.frames, part=ref.part))
        assert isinstance(loaded, Loaded)
        found.append((ref, measured, loaded))
    return found


def items_by_stream(reader: MediaReader, read: Sequence[ReadItem]) -> dict[str, list[Item]]:
    """The items of each stream, in the order in which they were read."""
    items: dict[str, list[Item]] = {}
    for ref, measured, loaded in read:
        item = MediaSlot(ref, measured.tokens, measured=measured).item(loaded.values, extras=loaded.extras)
        items.setdefault(ref.stream, []).append(item.to_float(reader.streams[ref.stream].preprocessing))
    return items


def _pixels(stream: str, item: Any) -> np.ndarray:
    """Decoded pixels, uint8 RGB ([T,] H, W, 3). Raises UserError for any other array, whose scale is not known."""
    pixels = np.asarray(item)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] != 3:
        raise UserError(
            f"{stream}: the pixels are {pixels.dtype} of shape {pixels.shape}; give uint8 RGB (H, W, 3), or of a clip "
            "(T, H, W, 3)"
        )
    return pixels


def padded_left(rows: Sequence[np.ndarray], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids as one tensor, padded on the left with ``pad``, and the mask of what is not padding.

    Shape: B rows of at most L ids -> (B, L) int64, (B, L) int64
    """
    length = max(len(row) for row in rows)
    ids = np.stack([np.pad(row, (length - len(row), 0), constant_values=pad) for row in rows])
    mask = np.stack([np.arange(length) >= length - len(row) for row in rows])
    return torch.from_numpy(ids), torch.from_numpy(mask).long()
