"""Boxes of MP4 and QuickTime files that FFmpeg does not hand on: composition offsets, matrices, lost fragments.

Source: ISO/IEC 14496-12.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vidtune.media.first_look import open_file

_UPRIGHT = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
_FRAGMENT_BOXES = frozenset({b"moof", b"mdat", b"mfra", b"sidx", b"styp", b"emsg", b"ssix", b"prft"})


def has_matrix(path: str) -> bool:
    """Whether the header of the film or of one of its tracks asks to turn, mirror or scale pictures."""
    with open_file(path) as file:
        end = Path(path).stat().st_size
        headers = [(box, 36) for box in _find(file, 0, end, (b"moov", b"mvhd"))]
        headers += [(box, 40) for box in _find(file, 0, end, (b"moov", b"trak", b"tkhd"))]
        for (start, _), place in headers:
            file.seek(start)
            version = file.read(1)
            file.seek(start + place + (12 if version == b"\1" else 0))
            if file.read(36) != _UPRIGHT:
                return True
    return False


def sample_times(path: str, track: int, samples: int) -> tuple[np.ndarray, int] | None:
    """Return the composition offset of every sample of a track, and the duration of the last one.

    Args:
        track: its id.
        samples: number of samples that it has.

    Returns:
        int64 (samples,) and an integer, both in units of the track's time base; None: the file has fragments, there
        is no such track, or its table is for another number of samples.
    """
    with open_file(path) as file:
        end = Path(path).stat().st_size
        if _find(file, 0, end, (b"moov", b"mvex")):
            return None
        for start, stop in _find(file, 0, end, (b"moov", b"trak")):
            for header, _ in _find(file, start, stop, (b"tkhd",)):
                file.seek(header)
                version = file.read(1)
                file.seek(header + (20 if version == b"\1" else 12))
                if int.from_bytes(file.read(4), "big") == track:
                    return _times_of_track(file, start, stop, samples)
    return None


def _times_of_track(file: BinaryIO, start: int, stop: int, samples: int) -> tuple[np.ndarray, int] | None:
    table = (b"mdia", b"minf", b"stbl")
    runs = {}
    for kind in (b"stts", b"ctts"):
        for begin, end in _find(file, start, stop, (*table, kind)):
            file.seek(begin + 8)
            content = file.read(max(0, end - begin - 8))
            runs[kind] = np.frombuffer(content[: len(content) // 8 * 8], ">i4").reshape(-1, 2).astype(np.int64)
    if b"stts" not in runs or any((run[:, 0] < 0).any() or run[:, 0].sum() != samples for run in runs.values()):
        return None
    last = int(runs[b"stts"][-1, 1])
    counts, offsets = runs.get(b"ctts", np.array([[samples, 0]])).T
    return np.repeat(offsets, counts), last


def lost_fragment(path: str) -> bool:
    """Whether a file of fragments ends within one, or before the end that its index of fragments states."""
    size = Path(path).stat().st_size
    with open_file(path) as file:
        boxes = list(_boxes(file, 0, size))
        if not _find(file, 0, size, (b"moov", b"mvex")):
            return False
        kind, _, end = boxes[-1]
        rest = size - end
        if rest > 0:
            file.seek(end)
            following = file.read(8)
            return len(following) < 8 or following[4:8] in _FRAGMENT_BOXES
        return (rest < 0 and kind in _FRAGMENT_BOXES) or _stated_end(file, boxes) > size


def _stated_end(file: BinaryIO, boxes: list[tuple[bytes, int, int]]) -> int:
    """Return where the fragments end by the index (sidx box) that stands before them; 0 without one."""
    for kind, start, end in boxes:
        if kind == b"sidx":
            file.seek(start)
            content = file.read(end - start)
            long = content[:1] == b"\1"
            place = 4 + 8 + (16 if long else 8)
            first = int.from_bytes(content[place - (8 if long else 4) : place], "big")
            count = int.from_bytes(content[place + 2 : place + 4], "big")
            count = min(count, max(0, len(content) - place - 4) // 12)
            sizes = np.frombuffer(content[place + 4 : place + 4 + 12 * count], ">u4").reshape(-1, 3)[:, 0]
            return end + first + int((sizes & 0x7FFFFFFF).sum())
    return 0


def _find(file: BinaryIO, start: int, end: int, kinds: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return the payloads of all boxes at a path of box types between two offsets."""
    found = [(begin, min(stop, end)) for kind, begin, stop in _boxes(file, start, end) if kind == kinds[0]]
    if len(kinds) == 1:
        return found
    return [box for begin, stop in found for box in _find(file, begin, stop, kinds[1:])]


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
