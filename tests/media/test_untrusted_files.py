"""Files with damaged or foreign numbers and texts: the frames of plain decoding, or one line about that file."""

import errno
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import synthetic_clips as clips
from ffmpeg_program import encode
from PIL import Image
from remuxed import remux
from synthetic_clips import decode_plainly, write_clip

from vidtune.errors import MediaError, UnreadMediaError
from vidtune.media.container import open_media
from vidtune.media.feature_file import feature_shape, read_features
from vidtune.media.image import PICTURE_LIMIT, image_size, read_image
from vidtune.media.kept.identity import content_hash
from vidtune.media.mp4_boxes import sample_times
from vidtune.media.packets.table import is_decodable_order
from vidtune.media.probe import probe
from vidtune.media.video import read_frames


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mp4"])
def test_a_title_that_is_not_utf_8_does_no_harm(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Cafexxx"
        stream = container.add_stream("mpeg4", rate=10, width=32, height=32)
        container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"Cafexxx", b"Caf\xe9\xff\xfe\xe9"))
    assert probe(path).num_frames == 1
    assert read_frames(path, [0]).shape == (1, 32, 32, 3)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    options = {"mp4": clips.WITH_B_FRAMES, "mkv": clips.WITH_B_FRAMES, "ts": clips.WITH_B_FRAMES, "avi": {"g": "12"}}
    codec = {"avi": "mpeg4"}
    return {
        suffix: write_clip(folder / f"a.{suffix}", size=(32, 32), codec=codec.get(suffix, "libx264"), options=option)
        for suffix, option in options.items()
    }


@pytest.mark.parametrize("box", [b"stts", b"ctts"])
@pytest.mark.parametrize("count", [-1, -(2**31), 2**31 - 1, 0])
def test_an_mp4_table_with_a_senseless_count_is_not_used(
    tmp_path: Path, sources: dict[str, Path], box: bytes, count: int
) -> None:
    content = bytearray(sources["mp4"].read_bytes())
    place = content.index(box) + 12
    content[place : place + 4] = count.to_bytes(4, "big", signed=True)
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert sample_times(str(path), 1, 40) is None
    assert sample_times(str(sources["mp4"]), 1, 40) is not None


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
def test_flipped_bytes_give_frames_or_a_media_error(tmp_path: Path, sources: dict[str, Path], suffix: str) -> None:
    random = np.random.default_rng(0)
    content = np.frombuffer(sources[suffix].read_bytes(), np.uint8)
    header = np.r_[:800, len(content) - 1200 : len(content)]
    path = tmp_path / f"a.{suffix}"
    for _ in range(8):
        damaged = content.copy()
        damaged[random.choice(header, 6)] = random.integers(0, 256, 6)
        path.write_bytes(damaged.tobytes())
        try:
            read_frames(path, [probe(path).num_frames - 1])
        except MediaError as error:
            assert "\n" not in str(error)


STREAMS = {"closed": clips.WITH_B_FRAMES, "open": clips.OPEN_GOP, "long": clips.LONG_GOP, "without": {"bf": "0"}}


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("options", STREAMS.values(), ids=STREAMS)
def test_one_damaged_time_moves_no_frame(tmp_path: Path, suffix: str, options: dict[str, str]) -> None:
    source = write_clip(tmp_path / "a.mkv", size=(32, 32), options=options)
    expected = decode_plainly(source)
    for damaged, time, indices in ((1, 6850, (1, 12, 30)), (14, 50, (2, 14)), (2, 250, (2, 13))):
        numbers = iter(range(40))

        def change(packet: av.Packet, numbers: Iterator[int] = numbers, which: int = damaged, to: int = time) -> None:
            number = next(numbers)
            packet.dts = number - 1000
            packet.pts = to if number == which else packet.pts

        path = remux(source, tmp_path / f"b.{suffix}", change)
        for index in indices:
            assert np.array_equal(read_frames(path, [index])[0], expected[index]), (damaged, time, index)


def test_an_order_that_no_decoder_shows() -> None:
    keys = np.arange(10) % 5 == 0
    assert is_decodable_order(np.arange(10), keys, 0)
    assert is_decodable_order(np.array([0, 4, 2, 1, 3, 7, 5, 6, 9, 8]), keys, 2)
    wrong = [
        ([0, 2, 1, 3, 4, 5, 6, 7, 8, 9], 0),  # the codec never changes the order
        ([0, 4, 2, 1, 3, 7, 5, 6, 9, 8], 1),  # more than it may
        ([0, 9, 2, 1, 3, 7, 5, 6, 8, 4], 9),  # behind the next key frame
        ([0, 4, 2, 1, 5, 8, 3, 6, 7, 9], 9),  # a leading picture before one of the group before
        ([0, 4, 8, 12, 16, 30, 18, 26, 34, 38], 9),  # a gap where leading pictures are
    ]
    for times, delay in wrong:
        assert not is_decodable_order(np.array(times), keys, delay), times


@pytest.mark.parametrize("name", ["a.avi", "a.mkv"])
def test_a_file_that_lacks_only_what_follows_its_frames_is_whole(tmp_path: Path, name: str) -> None:
    whole = encode(tmp_path / name, "-c:v", "mpeg4", "-g", 12, seconds=1).read_bytes()
    end = whole.rindex(b"idx1") if name == "a.avi" else whole.rindex(b"\x1c\x53\xbb\x6b")
    path = tmp_path / f"cut_{name}"
    for size in (len(whole) - 1, (end + len(whole)) // 2, end):
        path.write_bytes(whole[:size])
        assert probe(path).num_frames == 25
    path.write_bytes(whole[: end - 1])
    with pytest.raises(MediaError, match="cut off"):
        probe(path)


@pytest.mark.parametrize("error", [ValueError("a\nb"), OverflowError("a b"), IndexError("a b"), MemoryError()])
def test_an_error_of_senseless_numbers_is_one_line_about_its_file(sources: dict[str, Path], error: Exception) -> None:
    path = str(sources["mp4"])
    reason = "needs more memory" if isinstance(error, MemoryError) else r"is damaged \(a b\)"
    with pytest.raises(MediaError, match=f"a.mp4: {reason}"), open_media(path, "video"):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("a b"), KeyError("a b"), AssertionError(), struct.error("a b")])
def test_whatever_a_library_raises_costs_one_file(sources: dict[str, Path], error: Exception) -> None:
    with (
        pytest.raises(MediaError, match=r"a.mp4: is damaged \(.*(a b|AssertionError)"),
        open_media(str(sources["mp4"]), "video"),
    ):
        raise error


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE, errno.EINVAL])
def test_what_the_machine_cannot_do_is_not_the_fault_of_the_file(sources: dict[str, Path], number: int) -> None:
    with pytest.raises(MediaError, match=r"a.mp4: cannot be read") as caught, open_media(str(sources["mp4"]), "video"):
        raise OSError(number, os.strerror(number))
    assert isinstance(caught.value, UnreadMediaError) == (number != errno.EINVAL)


@pytest.mark.parametrize("kind", ["named pipe", "device"])
def test_no_pipe_and_no_device_is_opened(kind: str, tmp_path: Path) -> None:
    """Each would wait for ever, in the main process too."""
    for name in ("a.mp4", "a.png", "a.npy", "a.wav"):
        path = tmp_path / name
        if kind == "named pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
        readers = (
            [read_features, feature_shape]
            if name == "a.npy"
            else [probe, read_image, lambda path: read_frames(path, [0])]
        )
        for read in readers:
            with pytest.raises(MediaError, match=rf"{name}: is a {kind}, not a file"):
                read(str(path))
        assert content_hash(str(path)) is None


def test_a_picture_far_too_large_is_refused_before_its_bytes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    Image.new("RGB", (8, 8)).save(path)
    assert image_size(str(path)) == (8, 8)
    with path.open("r+b") as file:
        file.truncate(PICTURE_LIMIT + 1)
    with pytest.raises(MediaError, match="has more than the 1,073,741,824 bytes that an image file may have"):
        read_image(str(path))
    assert image_size(str(path)) is None  # it may be a video


@pytest.mark.parametrize("read", [read_image, image_size, probe])
def test_a_header_that_states_billions_of_pixels_gets_no_memory(read: Callable[[str], object], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    whole = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + whole[24:29]
    path.write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])
    with pytest.raises(MediaError, match=r"a\.png: has more pixels than are safe to decode"):
        read(str(path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile a.mp4\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\na.ts\n#EXT-X-ENDLIST\n"),
    ],
)
def test_a_playlist_opens_no_other_file(name: str, text: str, tmp_path: Path, sources: dict[str, Path]) -> None:
    for suffix in ("mp4", "ts"):
        shutil.copy(sources[suffix], tmp_path)
    (tmp_path / name).write_text(text)
    with av.open(str(tmp_path / name)) as container:
        assert container.streams.video, "FFmpeg follows it"
    for read in (probe, lambda path: read_frames(path, [0])):
        with pytest.raises(MediaError, match="is not a video file of a known format"):
            read(tmp_path / name)


def test_ffmpeg_may_open_files_alone(sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second lock: no format of the list names another place."""
    given: list[dict[str, str]] = []
    real = av.open
    monkeypatch.setattr(av, "open", lambda *words, **named: given.append(named["options"]) or real(*words, **named))
    probe(sources["mp4"])
    assert given and all(options["protocol_whitelist"] == "file" for options in given)
