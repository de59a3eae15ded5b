"""What a report shows of a question besides its file: the part of the video, boxes in frames, further pictures.

It is stored with the plan of the run, so that a page can be made of the folder of the run and the media alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from vidtune.data.sample import MediaRef
from vidtune.evaluation.question import Question
from vidtune.media.image import FRAME_SUFFIXES
from vidtune.media.preprocessing.box_choice import chosen_boxes

MOST = 8
"""Number of boxes of a track, and of pictures, that are stored."""


@dataclass(frozen=True, slots=True)
class ShownBox:
    """A box in a frame.

    Args:
        path: video, folder of frames or picture, below the folder of the test set.
        frame: number of the frame, or its name in the folder; None: there is one frame.
        box: left, top, right and bottom in pixels.
        asked: whether the question is about it; otherwise it is one of a track.
    """

    path: str
    frame: int | str | None
    box: tuple[float, float, float, float]
    asked: bool


@dataclass(frozen=True, slots=True)
class ShownMedia:
    """What is shown besides the file of a question.

    Args:
        start, end: seconds of the video between which it is asked about; None: from its start, to its end.
        boxes: the asked ones first.
        pictures: paths of further pictures below the folder of the test set.
    """

    start: float | None = None
    end: float | None = None
    boxes: tuple[ShownBox, ...] = ()
    pictures: tuple[str, ...] = ()


FILE_ALONE = ShownMedia()


def media_record(question: Question) -> dict[str, Any]:
    """Returns what is stored of a question, as JSON values; empty where its file is all there is to see."""
    record: dict[str, Any] = {}
    if question.start is not None or question.end is not None:
        record["part"] = [question.start, question.end]
    boxes = [found for ref in question.media if (found := _boxes(ref))]
    if boxes:
        record["boxes"] = boxes
    pictures = [
        ref.path
        for ref in question.media
        if PurePosixPath(ref.path).suffix.lower() in FRAME_SUFFIXES and not _boxes(ref)
    ]
    if pictures:
        record["pictures"] = pictures[:MOST]
    return record


def shown_media(line: Mapping[str, Any]) -> ShownMedia:
    """Returns what a line of the plan holds; see `media_record`."""
    start, end = line.get("part", (None, None))
    groups = line.get("boxes", [])
    boxes = [
        ShownBox(group["path"], frame, (box[0], box[1], box[2], box[3]), asked=place == 0)
        for place, group in enumerate(groups)
        for frame, box in zip(group["frames"], group["boxes"], strict=True)
    ]
    return ShownMedia(start, end, tuple(boxes), tuple(line.get("pictures", ())))


def _boxes(ref: MediaRef) -> dict[str, Any] | None:
    """Boxes of a medium, spread over all that it has; None: it has none."""
    numbers = ref.extra_arrays()
    if not ref.path or "boxes" not in numbers or not len(numbers["boxes"]):
        return None
    boxes = numbers["boxes"].tolist()
    frames: Sequence[int | str | None] = ref.frames or [int(one) for one in numbers.get("frames", ())]
    if len(frames) != len(boxes):
        frames = [None] * len(boxes)
    kept = chosen_boxes(len(boxes), MOST, "whole") if len(boxes) > MOST else range(len(boxes))
    return {"path": ref.path, "frames": [frames[n] for n in kept], "boxes": [boxes[n] for n in kept]}
