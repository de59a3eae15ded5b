"""Files of tracks: a JSON file with the boxes of one target in one video.

``{"video": "v.mp4", "form": "xyxy", "boxes": [{"seconds": 0.5, "box": [12, 30, 88, 200]}, ...]}``; "video" and "form"
may be left out; "frame" may stand in place of "seconds"; an empty box says that the target was not found at a moment.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.foreign.documents import read_object
from vidtune.media.boxes.forms import FORMS, GivenBox
from vidtune.spelling import suggestion

_KEYS, _BOX_KEYS = ("video", "form", "boxes"), ("seconds", "frame", "box")


def read_track(path: Path, video: Path, form: str) -> tuple[list[GivenBox], list[str]]:
    """Boxes of a track, and what messages call each of them.

    Args:
        video: the video that is asked about, as the user named it.
        form: form of the boxes, where the file tells none.

    Raises:
        UserError: the file cannot be read, holds no box, is of another video, or a box of it is wrong; names the place.
    """
    record = read_object(path)
    _check_keys(record, _KEYS, f"{path}")
    of = record.get("video")
    called = (video.name, video.resolve().name)  # a video of a hub cache is a link to a file of another name
    if of is not None and (not isinstance(of, str) or Path(of).name not in called):
        raise UserError(
            f"{path}: is the track of {of!r}, but {video.name!r} is asked about; give the track of that one"
        )
    entries = record.get("boxes")
    if not isinstance(entries, list):
        raise UserError(f"{path}: boxes: expected a list, found {type(entries).__name__}")
    given = record.get("form")
    form = form if given is None else given
    boxes, names = [], []
    for number, entry in enumerate(entries):
        name = f"{path}: boxes[{number}]"
        if not isinstance(entry, dict):
            raise UserError(f"{name}: expected an object, found {type(entry).__name__}")
        _check_keys(entry, _BOX_KEYS, name)
        absent = entry.get("box") == []  # its moment is looked at all the same
        box = (0, 0, 1, 1) if absent else entry.get("box")
        try:
            found = GivenBox(box, entry.get("seconds"), entry.get("frame"), FORMS[2] if absent else form)  # type: ignore[arg-type]
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        if not absent:
            boxes.append(found)
            names.append(name)
    if not boxes:
        raise UserError(f"{path}: boxes: there is no box in it; leave the track out to ask about the asked box alone")
    return boxes, names


def _check_keys(record: Mapping[str, Any], known: tuple[str, ...], name: str) -> None:
    if unknown := next((key for key in record if key not in known), None):
        raise UserError(f"{name}: unknown key {unknown!r}; {suggestion(unknown, known)}")
