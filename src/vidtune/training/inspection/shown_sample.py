"""What a model sees of one training sample: the tensors of its media as pictures, and its tokens.

Everything is made as training makes it: the same annotation, prompt, limits and preprocessing. Only random
preprocessing is seeded as in the first epoch, and values are shown before they are normalised.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vidtune.data.sample import MediaRef, Sample
from vidtune.data.tables import AnnotationTable
from vidtune.errors import MediaError, UserError
from vidtune.media.boxes.drawing import draw_box
from vidtune.media.feature_file import is_feature_file
from vidtune.media.image import FRAME_SUFFIXES, frame_path, read_image
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.preprocessing.box_choice import chosen_boxes
from vidtune.media.preprocessing.kinds import Preprocessing, among, part_read, random_setting
from vidtune.media.probe import ProbeCache, probe
from vidtune.media.video import read_frames
from vidtune.planning.lengths import ExampleMaker
from vidtune.planning.randomness import random_seed
from vidtune.processing.batch import IGNORED, Example, MediaSlot
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.times import time_rule
from vidtune.recipe.types import Recipe, Stage
from vidtune.training.inspection.data_check import processor_of_each_stage
from vidtune.training.setup.checks import check_stages, chosen_stages
from vidtune.training.setup.examples import example_maker
from vidtune.training.setup.run_folder import MEDIA_FACTS, TABLES

MOST_BOXES = 8
MOST_NAMED = 5


@dataclass(frozen=True)
class Token:
    """A token of text: its id, its place in the example, its text."""

    id: int
    place: int
    text: str


@dataclass(frozen=True)
class Span:
    """Tokens one after the other that are of one kind.

    Args:
        kind: "supervised", "text", or the stream of a medium.
        tokens: of text; none of a medium.
        count: number of tokens.
        item: number of the medium in `ShownSample.items`, from 1; 0: text.
    """

    kind: str
    tokens: tuple[Token, ...]
    count: int
    item: int = 0


@dataclass(frozen=True)
class ShownItem:
    """A medium as the model sees it.

    Args:
        shape: of its tensor; empty where it cannot be read.
        pictures: its frames with a label each, not more than asked for.
        frames: number of its frames.
        boxed: frames of the file with boxes of the annotation.
        problem: why it cannot be read; empty: it was.
        facts: what is known of it, by name.
    """

    stream: str
    path: str
    num_tokens: int
    shape: tuple[int, ...] = ()
    pictures: tuple[tuple[Image.Image, str], ...] = ()
    frames: int = 0
    boxed: tuple[tuple[Image.Image, str], ...] = ()
    problem: str = ""
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether its pictures are of sound: they have no colour."""
        return bool(self.pictures) and self.pictures[0][0].mode == "L"


@dataclass(frozen=True)
class ShownSample:
    """A sample as the model sees it.

    Args:
        id, original_id: ids of the sample, in the table and in its file.
        source: annotation file.
        turns: (role, text) as annotated.
        moments: (mark, second, text that is written for it).
        duration: seconds of the clip that the moments are of.
        limit: in words, what `max_length` did to it; empty: nothing.
    """

    id: str
    original_id: str
    source: Path
    stage: str
    prompt: str
    turns: tuple[tuple[str, str], ...]
    spans: tuple[Span, ...]
    items: tuple[ShownItem, ...]
    moments: tuple[tuple[str, float, str], ...] = ()
    duration: float = 0.0
    limit: str = ""

    def count(self, *kinds: str) -> int:
        """Number of tokens of these kinds; of none: all."""
        return sum(span.count for span in self.spans if not kinds or span.kind in kinds)

    @property
    def media_tokens(self) -> int:
        return self.count() - self.count("text", "supervised")


def shown_sample(recipe: Recipe, wanted: str | None, *, stage: str | None = None, frames: int = 32) -> ShownSample:
    """Make a sample as the model of a stage sees it.

    Args:
        wanted: id of the sample, ``<annotation file>:<index>`` as reports name it, or its id in the annotation file;
            None: the first sample of the data.
        stage: name of a stage; None: the first one that has the sample.
        frames: largest number of frames of a medium that are kept as pictures.

    Raises:
        UserError: no such stage or sample, several samples of that id, or one that cannot be used; says why.
    """
    check_stages(recipe)
    stages = chosen_stages(recipe, stage)
    processors = processor_of_each_stage(recipe)
    with tempfile.TemporaryDirectory(prefix="vidtune-") as folder:
        for one in stages:
            table = AnnotationTable.open(one.data, Path(folder) / TABLES)
            index = _index(table, wanted)
            if index is None:
                continue
            processor = processors[one.name].with_preprocessing(one.media)
            processor.media_info = ProbeCache(Path(folder) / TABLES / MEDIA_FACTS).get
            return _shown(recipe, one, table, index, example_maker(recipe, one, processor), frames)
    names = ", ".join(one.name for one in stages)
    raise UserError(f"no sample {wanted!r} in the data of {names}; name one as in 'FILE:INDEX', or by its own id")


def _index(table: AnnotationTable, wanted: str | None) -> int | None:
    """Place of a sample in a table; None: it is not there."""
    if wanted is None:
        return 0 if len(table) else None
    if (own := next((index for index in range(len(table)) if table.id(index) == wanted), None)) is not None:
        return own
    found = [index for index in range(len(table)) if table.original_id(index) == wanted]
    if len(found) > 1:
        ids = ", ".join(table.id(index) for index in found[:MOST_NAMED]) + (" ..." if len(found) > MOST_NAMED else "")
        raise UserError(f"{len(found)} samples have the id {wanted!r}; name one of {ids}")
    return found[0] if found else None


def _shown(
    recipe: Recipe, stage: Stage, table: AnnotationTable, index: int, make: ExampleMaker, frames: int
) -> ShownSample:
    sample = table[index]
    is_random = any(random_setting(one) for one in make.processor.preprocessing.values())
    example = make(sample, random_seed(recipe.seed, 0, index) if is_random else None)
    with MediaPool(1, stage.media_timeout) as pool:
        items = tuple(
            shown_item(slot, make.processor.preprocessing[slot.stream], pool, frames) for slot in example.media
        )
    cut = f"cut off at {make.max_length or make.max_expanded_length} tokens" if example.truncated else ""
    return ShownSample(
        id=table.id(index),
        original_id=table.original_id(index),
        source=table.source(index),
        stage=stage.name,
        prompt=make.prompt,
        turns=tuple((turn.role, turn.text) for turn in sample.turns),
        spans=tuple(_spans(example, make.processor)),
        items=items,
        moments=tuple(_moments(sample, make.processor.times)),
        duration=sample.times.duration if sample.times else 0.0,
        limit="; ".join(filter(None, [cut, f"no token is supervised: {example.masked}" if example.masked else ""])),
    )


def _moments(sample: Sample, rule: str | None) -> Iterator[tuple[str, float, str]]:
    if sample.times is not None and rule is not None:
        write = time_rule(rule).write
        for mark, second in sample.times.marks:
            yield mark, second, write(second, sample.times.duration)


def _spans(example: Example, processor: VideoLMProcessor) -> Iterator[Span]:
    """The tokens of an example, cut where their kind or their medium changes."""
    owners = np.full(len(example), -1) if example.owners is None else np.asarray(example.owners)
    supervised = np.asarray(example.labels) != IGNORED
    supervised[:1] = False
    kinds = [(int(owner), bool(yes) and owner < 0) for owner, yes in zip(owners, supervised, strict=True)]
    begins = [place for place, kind in enumerate(kinds) if place == 0 or kind != kinds[place - 1]]
    for begin, end in zip(begins, [*begins[1:], len(kinds)], strict=True):
        owner, yes = kinds[begin]
        if owner >= 0:
            yield Span(example.media[owner].stream, (), end - begin, owner + 1)
        else:
            ids = [int(one) for one in example.input_ids[begin:end]]
            texts = [_text(processor.tokenizer, one) for one in ids]
            tokens = (Token(one, begin + place, text) for place, (one, text) in enumerate(zip(ids, texts, strict=True)))
            yield Span("supervised" if yes else "text", tuple(tokens), end - begin)


def _text(tokenizer: Any, id: int) -> str:
    """Text of a token as it stands in a sentence: with its leading blank."""
    piece = tokenizer.convert_ids_to_tokens(id)
    if piece is None:
        return f"<{id}>"
    if "▁" in piece:
        return str(piece).replace("▁", " ")
    return str(tokenizer.decode([id], clean_up_tokenization_spaces=False)) or str(piece)


def shown_item(slot: MediaSlot, preprocessing: Preprocessing, pool: MediaPool, frames: int) -> ShownItem:
    """Read a medium as the model sees it, with at most so many of its frames as pictures."""
    ref = slot.ref
    shown = ShownItem(slot.stream, ref.path, slot.num_tokens, facts=tuple(_facts(slot)))
    try:
        boxed = tuple(_boxed(ref))
        if is_feature_file(ref.path):
            (result,) = pool.load([LoadJob(ref.path, preprocessing)])
        else:
            steps = among(preprocessing, ref.among)
            if getattr(steps, "pixels", None) == "float32":
                steps = steps.model_copy(update={"pixels": "uint8"})
            job = LoadJob(ref.path, steps, slot.seed, None, ref.extras, ref.frames, ref.part, keep=False)
            (result,) = pool.load([job])
        if result.error is not None:
            raise result.error
        values = np.asarray(result.array)
    except MediaError as error:
        return replace(shown, problem=error.reason if error.path == ref.path else str(error))
    if is_feature_file(ref.path):
        return replace(shown, shape=values.shape, boxed=boxed)
    pictures = _pictures(values)
    labels = _labels(ref, preprocessing, len(pictures))
    kept = chosen_boxes(len(pictures), frames, "whole") if len(pictures) > frames else range(len(pictures))
    chosen = tuple((Image.fromarray(pictures[number]), labels[number]) for number in kept)
    return replace(shown, shape=values.shape, pictures=chosen, frames=len(pictures), boxed=boxed)


def _facts(slot: MediaSlot) -> Iterator[tuple[str, str]]:
    ref = slot.ref
    if ref.part is not None:
        ends = [
            "the start" if ref.start is None else f"{ref.start:g} s",
            "the end" if ref.end is None else f"{ref.end:g} s",
        ]
        yield "part", " to ".join(ends) + (f" at {ref.fps:g} frames a second" if ref.fps else "")
    for name, array in ref.extra_arrays().items():
        yield name, f"numbers of shape {array.shape}" if array.size > 8 else str(array.tolist())


def _pictures(values: np.ndarray) -> list[np.ndarray]:
    """Frames of a tensor as uint8 RGB or grey pictures, whatever order its axes have."""
    if values.ndim == 5 and values.shape[1] == 3:  # tiles (N, 3, T, H, W)
        values = values.transpose(0, 2, 3, 4, 1).reshape(-1, *values.shape[3:], 3)
    elif values.ndim == 4 and values.shape[0] == 3:
        values = values.transpose(1, 2, 3, 0)
    elif values.ndim == 3 and values.shape[0] == 3:
        values = values.transpose(1, 2, 0)[None]
    elif not (values.ndim == 4 and values.shape[-1] == 3):  # sound: time runs to the right, low tones are below
        values = values.reshape(-1, *values.shape[-2:])
        values = (values.transpose(0, 2, 1) if values.shape[1] > values.shape[2] else values)[:, ::-1]
    if values.dtype != np.uint8:
        low, high = (float(found) for found in (np.nanmin(values), np.nanmax(values)))
        values = (np.nan_to_num(values - low) * (255 / max(high - low, 1e-9))).clip(0, 255).astype(np.uint8)
    return [np.ascontiguousarray(one) for one in values]


def _labels(ref: MediaRef, preprocessing: Preprocessing, number: int) -> list[str]:
    """What stands below each picture: the frame of the file and its second, where preprocessing tells which it took."""
    if number == 1:
        return [""]
    plain = [f"{place + 1}" for place in range(number)]
    tell = getattr(preprocessing, "frame_indices", None)
    if tell is None:
        return plain
    info = probe(ref.path).of_part(ref.path, part_read(preprocessing, ref.part))
    found = tell(info)
    if len(found) != number:
        return plain
    if not info.times.known:
        return [f"frame {index}" for index in found]
    starts = info.times.starts
    return [f"{starts[index]:.2f} s" for index in found]


def _boxed(ref: MediaRef) -> Iterator[tuple[Image.Image, str]]:
    """Frames of the file with the boxes of the annotation, spread over all that there are.

    Raises:
        MediaError: a frame is not there.
    """
    numbers = ref.extra_arrays()
    boxes = numbers.get("boxes")
    if boxes is None or boxes.ndim != 2 or boxes.shape[1] != 4 or not ref.path or is_feature_file(ref.path):
        return
    kept = chosen_boxes(len(boxes), MOST_BOXES, "whole") if len(boxes) > MOST_BOXES else range(len(boxes))
    for number in kept:
        pixels, label = _frame_of_box(ref, numbers, number)
        picture = Image.fromarray(pixels)
        draw_box(picture, tuple(boxes[number].tolist()), asked=len(boxes) == 1)
        yield picture, label


def _frame_of_box(ref: MediaRef, numbers: dict[str, np.ndarray], number: int) -> tuple[np.ndarray, str]:
    path = Path(ref.path)
    if ref.frames:
        name = ref.frames[number]
        return read_image(frame_path(str(path), name)), name
    if path.is_file() and path.suffix.lower() in FRAME_SUFFIXES:
        return read_image(str(path)), ""
    if "seconds" in numbers:
        second = float(numbers["seconds"].reshape(-1)[number])
        return read_frames(str(path), [probe(str(path)).times.index_at(second)])[0], f"{second:.2f} s"
    index = int(numbers["frames"].reshape(-1)[number]) if "frames" in numbers else 0
    return read_frames(str(path), [index])[0], f"frame {index}"
