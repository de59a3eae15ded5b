import pytest

from vidtune.media.packets.bitstream import is_entry_point, may_hide_pictures, may_turn, shows_a_picture

START = b"\0\0\0\1"
IDR, SLICE, SPS = b"\x65\x88\x80", b"\x41\x9a\x20", b"\x67\x42\0\x0a"
AVCC = bytes([1, 66, 0, 10, 0xFF, 0xE0])


def sei(kind: int, payload: bytes) -> bytes:
    return bytes([6, kind, len(payload)]) + payload + b"\x80"


@pytest.mark.parametrize(
    ("units", "sure"),
    [
        ([SPS, IDR], True),
        ([sei(6, b"\xc4"), SLICE], True),  # recovery point of no frames, exact
        ([b"\6\5\xff\x2d" + b"x" * 300 + b"\x80", sei(6, b"\xc4"), SLICE], True),  # after a message of 300 bytes
        ([sei(6, b"\x84"), SLICE], False),  # not exact
        ([sei(6, b"\x0f\x60"), SLICE], False),  # after 29 frames: intra refresh
        ([SLICE], False),
        ([], False),
    ],
)
@pytest.mark.parametrize("prefixed", [False, True])
def test_decoding_starts_where_pictures_are_whole(units: list[bytes], sure: bool, prefixed: bool) -> None:
    if prefixed:
        packet = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
    else:
        packet = b"".join(START + unit for unit in units)
    assert is_entry_point("h264", packet, AVCC if prefixed else None) is sure
    assert may_hide_pictures("h264", packet, True, AVCC if prefixed else None) is not sure
    assert is_entry_point("hevc", packet, None)


def test_the_first_picture_of_mpeg_2_tells_whether_others_come_before_it() -> None:
    header = b"\0\0\1\xb3" + b"\0\0\1\0"
    assert not may_hide_pictures("mpeg2video", header + b"\0\x0f\xff", True, None)
    assert may_hide_pictures("mpeg2video", header + b"\0\x8f\xff", True, None)
    assert may_hide_pictures("mpeg2video", header + b"\0\x0f\xff", False, None)


@pytest.mark.parametrize(
    ("codec", "packet", "shown"),
    [
        ("vp8", b"\x10\0", True),
        ("vp8", b"\0\0", False),
        ("vp9", b"\x82\0", True),  # key frame, shown
        ("vp9", b"\x84\0", False),  # inter frame, hidden
        ("vp9", b"\x88\0", True),  # shows an earlier one
        ("vp9", b"\xb1\0", True),  # profile 3, shown
        ("vp9", b"\xb2\0", False),
        ("vp9", b"\x84\xc1", True),  # superframe
        ("h264", b"\0\0", True),
    ],
)
def test_hidden_pictures(codec: str, packet: bytes, shown: bool) -> None:
    assert shows_a_picture(codec, packet) is shown


def test_a_display_orientation_message_is_seen() -> None:
    assert may_turn("h264", START + sei(47, b"\x20") + START + IDR, None)
    assert not may_turn("h264", START + sei(6, b"\xc4") + START + IDR, None)
    assert may_turn("hevc", START + b"\x4e\1" + sei(47, b"\x20")[1:], None)
    assert not may_turn("vp9", START + sei(47, b"\x20"), None)
