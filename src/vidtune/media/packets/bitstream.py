"""What the first bytes of a video packet tell: whether decoding may start there, and whether it shows a picture.

Sources: ITU-T H.264 sections 7.3 and D.1.8, ITU-T H.265 section 7.3, ISO/IEC 14496-15 (length-prefixed units), ISO/IEC
13818-2 section 6.2.3, RFC 6386 section 9.1, VP9 bitstream specification section 6.2 and annex B.
"""

from collections.abc import Iterator
from itertools import pairwise

_RECOVERY_POINT, _DISPLAY_ORIENTATION = 6, 47  # types of SEI messages
_H264_SLICES = frozenset(range(1, 6))
_H264_IDR, _H264_SEI, _HEVC_SEI = 5, 6, 39


def is_entry_point(codec: str, packet: bytes, extradata: bytes | None) -> bool:
    """Whether decoding may start at a packet that the container marks as a key frame.

    H.264 files also mark recovery points. Decoding from one gives the right pictures only if its first picture is
    exact already; with intra refresh, the pictures after it are still built on those before it.

    Args:
        codec: name of the decoder.
        extradata: header of the stream, which tells how units are separated.
    """
    if codec != "h264":
        return True
    for kind, unit in _units(packet, extradata, 4):
        if kind == _H264_SEI:
            for message, payload in _messages(unit[1:]):
                if message == _RECOVERY_POINT:
                    bits = int.from_bytes(payload, "big") >> (8 * len(payload) - 2) if payload else 0
                    return bits == 0b11  # recovery_frame_cnt 0 (one bit "1"), then exact_match_flag 1
        if kind in _H264_SLICES:
            return kind == _H264_IDR
    return False


def may_hide_pictures(codec: str, packet: bytes, is_key: bool, extradata: bytes | None) -> bool:
    """Whether a stream that begins with this packet may begin with pictures that cannot be decoded.

    Such streams were cut out of longer ones. In MPEG-1 and MPEG-2, pictures that are shown before the first one need
    the group before.
    """
    if not is_key or not is_entry_point(codec, packet, extradata):
        return True
    if codec in ("mpeg1video", "mpeg2video"):
        place = packet.find(b"\0\0\1\0")  # picture header; then temporal_reference, 10 bits
        return place < 0 or int.from_bytes(packet[place + 4 : place + 6], "big") >> 6 > 0
    return False


def shows_a_picture(codec: str, packet: bytes) -> bool:
    """Whether a packet shows a picture; VP8 and VP9 have packets that only serve as reference."""
    if codec == "vp8":
        return bool(packet[0] & 0x10)
    if codec == "vp9" and packet[-1] & 0xE0 != 0xC0:  # not a superframe, which ends with the picture that it shows
        profile_3 = packet[0] & 0x30 == 0x30
        bits = packet[0] << (1 if profile_3 else 0)
        return bool(bits & 0x08) or bool(bits & 0x02)  # show_existing_frame, frame_type, show_frame
    return True


def may_turn(codec: str, packet: bytes, extradata: bytes | None) -> bool:
    """Whether the first packet of a stream asks to turn or mirror its pictures (display orientation message)."""
    kinds = {"h264": (4, _H264_SEI), "hevc": (21, _HEVC_SEI)}
    if codec not in kinds:
        return False
    place, sei = kinds[codec]
    header = 1 if codec == "h264" else 2
    units = (unit[header:] for kind, unit in _units(packet, extradata, place, hevc=codec == "hevc") if kind == sei)
    return any(message == _DISPLAY_ORIENTATION for unit in units for message, _ in _messages(unit))


def _units(
    packet: bytes, extradata: bytes | None, length_place: int, hevc: bool = False
) -> Iterator[tuple[int, bytes]]:
    """Yield the NAL units of a packet with their type.

    Args:
        length_place: place in the extradata of the byte whose last two bits tell the size of the length prefix.
    """
    for begin, end in _borders(packet, extradata, length_place):
        if begin < end:
            yield (packet[begin] >> 1 & 0x3F if hevc else packet[begin] & 0x1F), packet[begin:end]


def _borders(packet: bytes, extradata: bytes | None, length_place: int) -> Iterator[tuple[int, int]]:
    if extradata and extradata[0] == 1 and len(extradata) > length_place:
        size, place = (extradata[length_place] & 3) + 1, 0
        while place + size <= len(packet):
            length = int.from_bytes(packet[place : place + size], "big")
            yield place + size, min(place + size + length, len(packet))
            place += size + length
        return
    starts, place = [], packet.find(b"\0\0\1")
    while place >= 0:
        starts.append(place + 3)
        place = packet.find(b"\0\0\1", place + 3)
    yield from ((begin, max(begin, end - 3)) for begin, end in pairwise([*starts, len(packet) + 3]))


def _messages(unit: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and payload of the SEI messages of a unit without its header."""
    content, place = unit.replace(b"\0\0\3", b"\0\0"), 0
    while place + 2 <= len(content):
        numbers = []
        for _ in range(2):
            number = 0
            while place < len(content) and content[place] == 0xFF:
                number, place = number + 255, place + 1
            if place >= len(content):
                return
            numbers.append(number + content[place])
            place += 1
        yield numbers[0], content[place : place + numbers[1]]
        place += numbers[1]
