"""Where the frames of a media file end, as its header states; a file that ends before was cut off."""

from typing import BinaryIO

from vidtune.media.first_look import open_file

_HEAD = 2**16
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_EBML, _SEGMENT, _CLUSTER = (bytes.fromhex(code) for code in ("1a45dfa3", "18538067", "1f43b675"))
_PLACE_OF_CUES = bytes.fromhex("53ab841c53bb6b53ac")  # in the SeekHead: SeekID of Cues, then SeekPosition
_UNKNOWN_RIFF_SIZES = (0, 2**32 - 1)


def stated_end_of_frames(path: str) -> int:
    """Return how many bytes an ASF, Matroska or AVI file must have to hold all its frames, as its header states.

    What follows the frames (an index, tags) may be missing. ASF states only its whole size, and a live recording
    nothing: 0. Sources: Advanced Systems Format specification, section 3.2; RFC 8794, section 6 (EBML); RFC 9559,
    section 6 (Matroska); Multimedia Programming Interface and Data Specifications 1.0 (RIFF).
    """
    with open_file(path) as file:
        head = file.read(_HEAD)
        if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
            return _end_of_movie_list(file)
    return _end_of_clusters(head) if head.startswith(_EBML) else _end_of_asf(head)


def _end_of_movie_list(file: BinaryIO) -> int:
    """Return where the frames of an AVI file end (its list "movi"), or of the first part of a longer one."""
    place = 12
    while True:
        file.seek(place)
        kind, size, name = file.read(4), int.from_bytes(file.read(4), "little"), file.read(4)
        if len(name) < 4 or (name == b"movi" and size in _UNKNOWN_RIFF_SIZES):
            return 0
        if (kind, name) == (b"LIST", b"movi"):
            return place + 8 + size
        place += 8 + size + size % 2


def _end_of_asf(head: bytes) -> int:
    _, _, properties = head.partition(_ASF_PROPERTIES)
    is_broadcast = len(properties) < 76 or properties[72] & 1
    return 0 if is_broadcast else int.from_bytes(properties[24:32], "little")


def _end_of_clusters(head: bytes) -> int:
    """Return where the clusters of a Matroska file end: at the index behind them, or where the segment ends.

    0 if its size is unknown.
    """
    start = head.find(_SEGMENT) + len(_SEGMENT)
    if start < len(_SEGMENT) or start >= len(head) or not head[start]:
        return 0
    length = 9 - head[start].bit_length()
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(head[start : start + length], "big") & unknown
    begin = start + length
    _, found, place = head.partition(_PLACE_OF_CUES)
    index = begin + int.from_bytes(place[1 : 1 + (place[0] & 0x7F)], "big") if found and place else 0
    if begin < head.find(_CLUSTER) < index:
        return index
    return 0 if size == unknown else begin + size
