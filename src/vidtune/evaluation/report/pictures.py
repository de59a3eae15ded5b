"""What a question is about, as one small image inside an HTML page: frames of a video, a picture, boxes."""

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from vidtune.errors import ItemError, MediaError
from vidtune.evaluation.runs.shown_media import ShownBox, ShownMedia
from vidtune.foreign.containment import is_inside, stays_below
from vidtune.media.boxes.drawing import draw_box
from vidtune.media.clip_times import Part
from vidtune.media.image import FRAME_SUFFIXES, frame_path, read_image
from vidtune.media.preprocessing.frame_sampling import frame_chooser
from vidtune.media.video import read_clip, read_frames

GAP = 4
JPEG_QUALITY = 78
FRAME_HEIGHT, PICTURE_HEIGHT, WIDEST = 120, 240, 960
"""Largest sizes in pixels: of frames side by side, of a picture alone, of all together."""


class SmallPicture(NamedTuple):
    """A data address (``data:image/jpeg;...``) and its size in pixels."""

    address: str
    width: int
    height: int


def picture_of(strip: Image.Image) -> SmallPicture:
    """Returns frames side by side, see `strip_of`, as one picture of a page."""
    content = io.BytesIO()
    strip.save(content, "JPEG", quality=JPEG_QUALITY)
    address = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
    return SmallPicture(address, *strip.size)


def strip_of(folder: Path, file: str | None, media: ShownMedia, frames: int) -> Image.Image:
    """Returns frames side by side.

    Args:
        folder: folder of the test set.
        file: the video, folder of frames or picture, below the folder; None: there is none.
        frames: largest number of frames, and of boxes; frames are spread over the part that is asked about.

    Raises:
        MediaError: there is nothing to show, or it cannot be read.
    """
    tiles = list(_tiles(folder, file, media, frames))
    if not tiles:
        raise MediaError(file or "", "no file")
    height = PICTURE_HEIGHT if len(tiles) == 1 else FRAME_HEIGHT
    small = [_within(tile, height, WIDEST // len(tiles)) for tile in tiles]
    strip = Image.new("RGB", (sum(tile.width + GAP for tile in small) - GAP, max(tile.height for tile in small)))
    strip.paste((127, 127, 127), (0, 0, *strip.size))
    left = 0
    for tile in small:
        strip.paste(tile, (left, 0))
        left += tile.width + GAP
    return strip


def _tiles(folder: Path, file: str | None, media: ShownMedia, frames: int) -> Iterator[Image.Image]:
    if media.boxes:
        yield from map(Image.fromarray, _boxed(folder, media.boxes[:frames]))
    elif file is not None:
        path = _inside(folder, file)
        if path.suffix.lower() in FRAME_SUFFIXES and path.is_file():
            yield Image.fromarray(read_image(str(path)))
        else:
            part = Part(media.start, media.end)
            yield from map(Image.fromarray, read_clip(str(path), frame_chooser("linspace", frames), part=part)[0])
    for name in media.pictures[:frames]:
        yield Image.fromarray(read_image(str(_inside(folder, name))))


def _boxed(folder: Path, boxes: Sequence[ShownBox]) -> Iterator[np.ndarray]:
    """Yields the frames of boxes, each with its box."""
    for one in boxes:
        path = _inside(folder, one.path)
        if isinstance(one.frame, str):
            pixels = read_image(frame_path(str(path), one.frame), str(path))
        elif one.frame is None and path.suffix.lower() in FRAME_SUFFIXES:
            pixels = read_image(str(path))
        else:
            pixels = read_frames(str(path), [one.frame or 0])[0]
        picture = Image.fromarray(pixels)
        draw_box(picture, one.box, one.asked)
        yield np.asarray(picture)


def _inside(folder: Path, name: str) -> Path:
    """Returns a path below the folder, without symbolic links.

    Only a folder of the test set itself may be a link, as that of its videos is where they lie on another disk.

    Raises:
        MediaError: the path leaves the folder, or does not exist.
    """
    if not stays_below(name):
        raise ItemError(name, "leaves the folder of the test set")
    path = folder / name
    if not path.exists():
        raise ItemError(name, f"{path} is no longer there")
    parts = PurePosixPath(name).parts
    if not is_inside(path, folder, *(folder / part for part in parts[:1] if len(parts) > 1)):
        raise ItemError(name, "leads out of the folder of the test set through a symbolic link")
    return path.resolve()


def _within(picture: Image.Image, height: int, width: int) -> Image.Image:
    scale = min(height / picture.height, width / picture.width)
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)
