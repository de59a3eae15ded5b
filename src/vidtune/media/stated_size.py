"""The size that a media file states in its header; a file that is smaller was cut off."""

from pathlib import Path

_HEAD = 2**16
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_EBML, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")
_UNKNOWN_RIFF_SIZES = (0, 2**32 - 1)


def stated_bytes(path: str) -> int:
    """Return the size in bytes that the header of an ASF, Matroska or AVI file states; 0 if it states none.

    Live recordings state none. Sources: Advanced Systems Format specification, section 3.2; RFC 8794, section 6
    (EBML); Multimedia Programming Interface and Data Specifications 1.0 (RIFF).
    """
    with Path(path).open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_EBML):
        return _end_of_segment(head)
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        size = int.from_bytes(head[4:8], "little")
        return 0 if size in _UNKNOWN_RIFF_SIZES else size + 8
    return _end_of_asf(head)


def _end_of_asf(head: bytes) -> int:
    _, _, properties = head.partition(_ASF_PROPERTIES)
    is_broadcast = len(properties) < 76 or properties[72] & 1
    return 0 if is_broadcast else int.from_bytes(properties[24:32], "little")


def _end_of_segment(head: bytes) -> int:
    """Return where the segment of a Matroska file ends; 0 if its size is unknown."""
    start = head.find(_SEGMENT) + len(_SEGMENT)
    if start < len(_SEGMENT) or start >= len(head) or not head[start]:
        return 0
    length = 9 - head[start].bit_length()
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(head[start : start + length], "big") & unknown
    return 0 if size == unknown else start + length + size
