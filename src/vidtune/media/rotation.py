"""The display rotation stored in an MP4 or QuickTime header, read without decoding a frame."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def header_rotation(path: str) -> int:
    """Return the counterclockwise rotation in degrees (0, 90, 180, 270) that players apply to the first video track.

    It is 0 for files of other formats and for matrices that are not a multiple of a quarter turn.
    Source: ISO/IEC 14496-12, track header box.
    """
    with Path(path).open("rb") as file:
        for kind, start, end in _boxes(file, 0, Path(path).stat().st_size):
            if kind == b"moov":
                for track_kind, track_start, track_end in _boxes(file, start, end):
                    if track_kind == b"trak" and _is_video(file, track_start, track_end):
                        return _rotation_of_track(file, track_start, track_end)
    return 0


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the boxes between two offsets: type, start and end of the payload. Stops at a malformed box."""
    while start + 8 <= end:
        file.seek(start)
        header = file.read(16)
        if len(header) < 8:
            return
        size, kind = struct.unpack(">I4s", header[:8])
        payload = start + 8
        if size == 1 and len(header) == 16:
            size, payload = struct.unpack(">Q", header[8:])[0], start + 16
        elif size == 0:
            size = end - start
        if size < payload - start:
            return
        yield kind, payload, start + size
        start += size


def _is_video(file: BinaryIO, start: int, end: int) -> bool:
    for kind, media_start, media_end in _boxes(file, start, end):
        if kind == b"mdia":
            for media_kind, handler_start, _ in _boxes(file, media_start, media_end):
                if media_kind == b"hdlr":
                    file.seek(handler_start + 8)
                    return file.read(4) == b"vide"
    return False


def _rotation_of_track(file: BinaryIO, start: int, end: int) -> int:
    for kind, header_start, _ in _boxes(file, start, end):
        if kind == b"tkhd":
            file.seek(header_start)
            version = file.read(1)[0]
            file.seek(header_start + (52 if version == 1 else 40))
            a, b = struct.unpack(">ii", file.read(8))
            return quarter_turns(-math.degrees(math.atan2(b, a))) * 90
    return 0


def quarter_turns(degrees: float) -> int:
    """Return the number of counterclockwise quarter turns (0 to 3) of a rotation; 0 if it is near no multiple of 90."""
    turns = round(degrees / 90)
    return turns % 4 if abs(degrees - 90 * turns) < 1 else 0
