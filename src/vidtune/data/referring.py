"""Reader of annotations about one target in a video: one JSON list of boxes, with a question and its answer.

    [{"frame_path": "frames/01", "frame_id": ["0001.jpg", "0002.jpg"], "track_list": [[12, 30, 88, 200], []],
      "key_frame_id": "0001.jpg", "key_frame_box": [13, 30, 89, 201], "clip_path": "features/01.pkl",
      "question": "What is the <bbox> doing?", "caption": "The man opens the door.", "video_name": "01.mp4"}]

`frame_path` is a folder of frames with their names in `frame_id`, or a folder or video file with the numbers of frames,
from 0. `track_list` has a box for each of them, [left, top, right, bottom] in pixels, or [] where the target is not
found. The asked box is `key_frame_box` in `key_frame_id`, which may be in no list; without one, any box of the track.
`clip_path`, `question` and `video_name` may be missing. Without a question the prompt format asks one of its own.

A sample has three media: ``video`` (the features `clip_path`, else the frames), ``box`` (the asked box), and ``track``
(the boxes that are not empty; if all are, the asked one). The tag of the box is ``<box>``.

Source: the data of arXiv:2406.00258.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtune.data.annotation import Annotation, as_tuples
from vidtune.data.forms.records import read_annotation, read_annotations
from vidtune.data.forms.values import identity_of, kind_of, text_of
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Extras, Turn
from vidtune.media.preprocessing.box_choice import box_problem

TAG, PUBLISHED_TAG = "<box>", "<bbox>"


def read_referring(path: Path, content: bytes) -> Iterator[Annotation]:
    """Yield the items of an annotation file one by one. One with impossible boxes or of a wrong form gets a problem.

    Args:
        path: path of the file, for messages.
        content: content of the whole file.

    Raises:
        UserError: the file is not UTF-8 or not valid JSON; names line and column.
    """
    return read_annotations(path, content, _annotation)


def referring_annotation(path: Path, index: int, item: Any) -> Annotation:
    """Returns the annotation of one item of a file, a JSON value; see `read_referring`.

    Raises:
        UserError: the item has the wrong form (names its index and key).
    """
    return read_annotation(path, index, item, _annotation)


@dataclass
class _Boxes:
    """Boxes in frames, which are all named or all numbered."""

    boxes: list[list[float]] = field(default_factory=list)
    frames: list[str | int] = field(default_factory=list)

    def add(self, frame: Any, box: Any, key: str) -> None:
        """Add a box. Raises SampleProblem for an impossible one."""
        if isinstance(box, list) and all(isinstance(n, int | float) and not isinstance(n, bool) for n in box):
            problem = box_problem(box)
        else:
            problem = f"is {box!r}; expected a list of 4 numbers: left, top, right, bottom"
        if problem is not None:
            raise SampleProblem("wrong box", f"{key} {problem}")
        if isinstance(frame, bool) or not isinstance(frame, str | int):
            raise SampleProblem("wrong frame", f"{key}: its frame is {frame!r}; expected the name or number of a frame")
        if not isinstance(frame, type((self.frames or [frame])[0])):
            raise SampleProblem("wrong frame", f"{key}: its frame is {frame!r}; give all by name or all by number")
        if isinstance(frame, int) and not 0 <= frame < 2**53:  # 2**53: float64 holds all whole numbers below
            raise SampleProblem("wrong frame", f"{key}: its frame is no number of a frame; frames are counted from 0")
        self.boxes.append(box)
        self.frames.append(frame)

    @property
    def extras(self) -> Extras:
        numbers = () if self.names else (("frames", as_tuples(self.frames)),)
        return (("boxes", as_tuples(self.boxes)), *numbers)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(frame for frame in self.frames if isinstance(frame, str))


def _annotation(item: Any) -> Annotation:
    if not isinstance(item, dict):
        raise ValueError(f"expected an object, found {kind_of(item)}")
    folder = text_of(item, "frame_path")
    caption = text_of(item, "caption") if item.get("caption") is not None else ""
    question = text_of(item, "question") if item.get("question") is not None else ""
    clip = text_of(item, "clip_path") if item.get("clip_path") is not None else ""
    key = "id" if item.get("id") is not None else "video_name"
    identity = identity_of(item.get(key))
    turns = (Turn("user", f"<video>\n{question.replace(PUBLISHED_TAG, TAG)}"), Turn("assistant", caption))
    media = (("video", clip or folder), ("box", folder), ("track", folder))
    words, problem = len(caption.split()), None
    extras: tuple[Extras, ...] = ()
    frames: tuple[tuple[str, ...], ...] = ()
    try:
        asked, track = _targets(item)
        extras, frames = ((), asked.extras, track.extras), ((), asked.names, track.names)
        if not words:
            raise SampleProblem("no caption", "its caption is missing or has no word")
    except SampleProblem as found:
        problem = found.reason, found.detail
    return Annotation(identity, turns, media, None, extras, frames, problem, words)


def _targets(item: dict[str, Any]) -> tuple[_Boxes, _Boxes]:
    """The asked box, or all of which it is one, and the track. Raises SampleProblem for impossible or missing ones."""
    track, asked = _Boxes(), _Boxes()
    names, boxes = _list(item, "frame_id"), _list(item, "track_list")
    if len(names) != len(boxes):
        raise SampleProblem(
            "frames and boxes differ in number",
            f"frame_id names {len(names)} frames, track_list has {len(boxes)} boxes",
        )
    for index, (name, box) in enumerate(zip(names, boxes, strict=True)):
        if box not in (None, []):
            track.add(name, box, f"track_list[{index}]")
    if (box := item.get("key_frame_box")) not in (None, []):
        if (frame := item.get("key_frame_id")) in (None, "", []):
            raise SampleProblem("wrong frame", "key_frame_box is given without key_frame_id, which says in which frame")
        asked.add(frame, box, "key_frame_box")
    if not (asked.boxes or track.boxes):
        raise SampleProblem("no box", "key_frame_box is empty, and so are all boxes of track_list")
    if all(0 <= number <= 1 for box in (*asked.boxes, *track.boxes) for number in box):
        raise SampleProblem("boxes look like fractions", "all its boxes lie within 0 to 1; write pixels of the frame")
    return (asked if asked.boxes else track), (track if track.boxes else asked)


def _list(item: dict[str, Any], key: str) -> Sequence[Any]:
    value = item.get(key)
    if value is not None and not isinstance(value, list):
        raise SampleProblem("wrong box", f"{key} is {kind_of(value)}; expected a list")
    return value or []
