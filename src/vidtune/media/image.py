"""Still images and folders of frame images, read with Pillow."""

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from vidtune.errors import MediaError, UserError
from vidtune.foreign.containment import is_inside
from vidtune.media.first_look import check_file, media_errors, open_file

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000")
"""Formats that are read, whatever the name of a file says. Others may start a program (EPS) or open further files."""
PICTURE_LIMIT = 2**30
"""Bytes of an image file: some formats are read as a whole. Videos are not, and may be longer."""
FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})


def read_image(path: str, root: str | None = None) -> np.ndarray:
    """Return the pixels of a still image as RGB. Alpha is dropped; an animation gives its first picture.

    Of 16 bits per colour the upper 8 are taken. The EXIF orientation is not applied, as in the loaders that published
    systems were trained with.

    Args:
        root: folder that must hold the file, also after symbolic links; None: it may lie anywhere.

    Shape: -> uint8 (H, W, 3)
    Raises:
        MediaError: missing, empty, cut off, outside the root, not an image, or with levels whose scale is not known
            (float, 32 bits).
    """
    try:
        with _open_image(path, root) as image:
            return _rgb(path, image)
    except _TooLargeError:
        raise MediaError(path, f"has more than the {PICTURE_LIMIT:,} bytes that an image file may have") from None
    except UnidentifiedImageError:
        raise MediaError(path, "is not an image file of a known format") from None


class _TooLargeError(UnidentifiedImageError):
    """A file that is too large for an image; it may be a video."""


def _rgb(path: str, image: Image.Image) -> np.ndarray:
    """RGB pixels, uint8 (H, W, 3). Levels of more than 8 bits are scaled here: Pillow would clip them to white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        tags = getattr(image, "tag_v2", {})  # of a TIFF file
        bits = int(np.ravel(tags.get(ExifTags.Base.BitsPerSample, 16))[0])
        grey = (np.asarray(image).astype(np.uint16) >> (bits - 8)).astype(np.uint8)
        zero_is_white = tags.get(ExifTags.Base.PhotometricInterpretation) == 0
        return np.repeat((255 - grey if zero_is_white else grey)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        levels = "32-bit" if image.mode == "I" else "float"
        raise MediaError(path, f"has {levels} grey levels, whose scale is not known; save it with 8 or 16 bits")
    if image.mode == "La":  # alpha that is multiplied into the grey levels; Pillow takes this step alone
        image = image.convert("LA")
    image.info.pop("transparency", None)  # of a palette, whose colours are wanted; Pillow would warn
    return np.array(image.convert("RGB"))


def image_size(path: str) -> tuple[int, int] | None:
    """Return width and height from the header of a still image; None for other files, for GIFs and for MPEG video.

    Raises:
        MediaError: missing, unreadable or empty.
    """
    try:
        with _open_image(path) as image:
            return None if image.format == "GIF" else image.size
    except UnidentifiedImageError:
        return None


@contextmanager
def _open_image(path: str, root: str | None = None) -> Iterator[Image.Image]:
    """Context manager that opens an image file of one of `IMAGE_FORMATS`.

    Raises:
        UnidentifiedImageError: of another format, or too large for an image.
        MediaError: missing, unreadable, empty, damaged, or with more pixels than are safe to decode.
    """
    other: UnidentifiedImageError | None = None
    with media_errors(path):
        check_file(path, root)
        try:
            if Path(path).stat().st_size > PICTURE_LIMIT:
                raise _TooLargeError
            with open_file(path, root) as file, Image.open(file, formats=_known_formats()) as image:
                yield image
        except UnidentifiedImageError as error:
            other = error
        except Image.DecompressionBombError:
            raise MediaError(path, "has more pixels than are safe to decode") from None
        except (UserError, OSError, MemoryError):
            raise
        except Exception as error:  # readers of damaged files raise errors of many types
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise MediaError(path, f"is a damaged image ({reason})") from None
    if other is not None:
        raise other


@cache
def _known_formats() -> tuple[str, ...]:
    """Those of `IMAGE_FORMATS` that this Pillow can read."""
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


def list_frames(folder: str) -> list[str]:
    """Return the paths of the image files in a folder in natural order: frame2 before frame10.

    Raises:
        MediaError: the folder holds no image file, or one of them is a symbolic link out of the folder.
    """
    with media_errors(folder):
        names = [entry.name for entry in Path(folder).iterdir() if entry.suffix.lower() in FRAME_SUFFIXES]
        if not names:
            raise MediaError(folder, "is a folder without image files")
        return [frame_path(folder, name) for name in sorted(names, key=_natural_key)]


def frame_path(folder: str, name: str) -> str:
    """Return the path of a frame in a folder of frames; the file need not exist.

    Raises:
        MediaError: it leads out of the folder, as a symbolic link may.
    """
    path = os.path.join(folder, name)  # noqa: PTH118
    if not is_inside(path, folder):
        raise MediaError(path, "leads out of its folder through a symbolic link; copy the frame into the folder")
    return path


def frame_images(paths: list[str], indices: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the wanted frames with their indices, ascending, each once. Shape: uint8 (H, W, 3) each

    Args:
        paths: frames of one folder, which they must not leave.

    Raises:
        MediaError: a frame is unreadable, or its size differs from the first one's.
    """
    shape: tuple[int, ...] | None = None
    for index in sorted(set(indices)):
        picture = read_image(paths[index], os.path.dirname(paths[index]))  # noqa: PTH120
        shape = shape or picture.shape
        if picture.shape != shape:
            size = f"{picture.shape[1]}x{picture.shape[0]}"
            raise MediaError(paths[index], f"is {size}, other frames of its folder are {shape[1]}x{shape[0]}")
        yield index, picture


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
