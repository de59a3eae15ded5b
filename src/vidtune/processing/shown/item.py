"""A medium as a model sees it: the tensor of its preprocessing as pictures, before its values are normalised."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from vidtune.data.sample import MediaRef
from vidtune.errors import MediaError
from vidtune.media.boxes.drawing import draw_box
from vidtune.media.feature_file import is_feature_file
from vidtune.media.image import FRAME_SUFFIXES, frame_path, read_image
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.preprocessing.box_choice import chosen_boxes
from vidtune.media.preprocessing.kinds import Preprocessing, among, part_read
from vidtune.media.probe import probe
from vidtune.media.video import read_frames
from vidtune.processing.batch import MediaSlot

MOST_BOXES = 8


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
