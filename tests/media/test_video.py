import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic_clips as clips
from PIL import Image
from synthetic_clips import decode_plainly, write_clip

from vidtune.errors import MediaError
from vidtune.media import video
from vidtune.media.clip_times import ClipTimes
from vidtune.media.packets.groups import first_range
from vidtune.media.packets.table import PacketTable
from vidtune.media.preprocessing.frame_sampling import frame_chooser
from vidtune.media.probe import probe
from vidtune.media.video import read_clip, read_frames

REAL = Path(os.environ.get("VIDTUNE_MEDIA", Path(__file__).parents[3] / "shared" / "media"))
FORMATS = {
    "b_frames.mp4": {"options": clips.WITH_B_FRAMES},
    "long_gop.mp4": {"options": clips.LONG_GOP},
    "no_b_frames.mp4": {"options": clips.WITHOUT_B_FRAMES},
    "open_gop.mp4": {"options": clips.OPEN_GOP},
    "open_gop.mkv": {"options": clips.OPEN_GOP},
    "fragmented.mp4": {"options": clips.WITH_B_FRAMES, "muxing": {"movflags": "frag_keyframe+empty_moov"}},
    "transport.ts": {"options": clips.WITH_B_FRAMES},
    "h264.avi": {"options": clips.WITH_B_FRAMES},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "9"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"bf": "2", "g": "9"}},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "9"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "9", "deadline": "realtime"}},
    "picture.gif": {"codec": "gif", "pixel_format": "rgb8"},
    "raw.h264": {"options": clips.WITH_B_FRAMES},
    "ten_bit.mp4": {"pixel_format": "yuv420p10le", "options": clips.WITH_B_FRAMES},
    "odd.mp4": {"pixel_format": "yuv444p", "size": (65, 47)},
    "with_sound.mp4": {"sound": True},
    "one_frame.mp4": {"num_frames": 1},
    "rotated.mp4": {"rotation": -90},
    "upside_down.mp4": {"rotation": 180},
}


@pytest.mark.parametrize("name", FORMATS)
def test_frames_equal_plain_decoding(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name, **FORMATS[name])
    expected = decode_plainly(path)
    last = len(expected) - 1
    for indices in ([0], [last], [last // 2, 0, last // 2, last], list(range(0, last + 1, 5)), list(range(last + 1))):
        found = read_frames(path, indices)
        assert found.dtype == np.uint8
        assert len(found) == len(indices)
        for picture, index in zip(found, indices, strict=True):
            assert np.array_equal(picture, expected[index]), index


@pytest.mark.parametrize("name", ["b_frames.mp4", "open_gop.mp4"])
def test_every_single_frame_can_be_reached_alone(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name, **FORMATS[name])
    for index, expected in enumerate(decode_plainly(path)):
        assert np.array_equal(read_frames(path, [index])[0], expected), index


def test_the_plan_serves_ordinary_files_without_decoding_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded from the start")

    monkeypatch.setattr(video, "_decode_plainly", refuse)
    for name in ("b_frames.mp4", "open_gop.mp4", "open_gop.mkv", "transport.ts", "vp9.webm", "fragmented.mp4"):
        path = write_clip(tmp_path / name, **FORMATS[name])
        assert len(read_frames(path, [1, 17, 38])) == 3


def test_two_threads_give_the_same_pixels(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", options=clips.WITH_B_FRAMES)
    assert np.array_equal(read_frames(path, [3, 30, 39], threads=2), read_frames(path, [3, 30, 39]))


def test_a_variable_frame_rate_keeps_one_index_per_frame(tmp_path: Path) -> None:
    times = [0, 1, 2, 10, 11, 30, 31, 32, 33, 60]
    path = write_clip(tmp_path / "vfr.mp4", num_frames=10, times=times, options=clips.WITH_B_FRAMES)
    info = probe(path)
    assert info.num_frames == 10
    assert info.duration == pytest.approx(6.1, abs=0.1)
    for index, expected in enumerate(decode_plainly(path)):
        assert np.array_equal(read_frames(path, [index])[0], expected)


def test_a_clip_gives_the_frames_of_its_rule_and_its_metadata(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=30, rotation=90, options=clips.WITH_B_FRAMES)
    frames, info = read_clip(path, frame_chooser("linspace", 4))
    assert np.array_equal(frames, read_frames(path, [0, 9, 19, 29]))
    assert info == probe(path)
    assert (info.width, info.height) == (48, 64) == (frames.shape[2], frames.shape[1])


def test_a_clip_shorter_than_wanted_repeats_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "one.mp4", num_frames=1)
    frames, _ = read_clip(path, frame_chooser("linspace", 8))
    assert len(frames) == 8
    assert (frames == frames[0]).all()


COLUMNS = ("times", "decode_times", "sizes", "keys", "shown")


def test_frames_that_packets_promise_but_decoding_lacks_are_not_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "clip.avi", num_frames=10, codec="mpeg4")
    original = video.read_packet_table

    def promise_two_more(*arguments: object) -> PacketTable:
        table = original(*arguments)  # type: ignore[arg-type]
        columns = {name: getattr(table, name) for name in COLUMNS}
        more = {name: np.append(column, [column[-1]] * 2) for name, column in columns.items()}
        return replace(table, **more, timed=False, clip=ClipTimes.evenly(12, 10))

    monkeypatch.setattr(video, "read_packet_table", promise_two_more)
    frames, info = read_clip(path, frame_chooser("linspace", 3))
    assert info.num_frames == 10
    expected = decode_plainly(path)
    assert np.array_equal(frames, np.stack([expected[index] for index in (0, 4, 9)]))
    with pytest.raises(MediaError, match="frame 11 was asked for, the last of its 10 is 9"):
        read_frames(path, [11])


def test_a_folder_of_frames_is_read_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        Image.new("RGB", (6, 4), (number, 0, 0)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    frames, info = read_clip(tmp_path, frame_chooser("linspace", 3))
    assert frames[:, 0, 0, 0].tolist() == [1, 2, 10]
    assert (info.kind, info.num_frames, info.width, info.height) == ("frames", 3, 6, 4)
    assert read_frames(tmp_path, [2, 0])[:, 0, 0, 0].tolist() == [10, 1]


def test_frames_of_unequal_size_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "1.png")
    Image.new("RGB", (8, 4)).save(tmp_path / "2.png")
    with pytest.raises(MediaError, match=r"2\.png: is 8x4, other frames of its folder are 6x4"):
        read_clip(tmp_path, frame_chooser("linspace", 2))


def test_an_index_behind_the_end_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=5)
    with pytest.raises(MediaError, match="frame 5 was asked for, the last of its 5 is 4"):
        read_frames(path, [0, 5])
    with pytest.raises(ValueError, match="0 or more"):
        read_frames(path, [-1])


def test_a_picture_shown_before_its_key_frame_needs_the_gop_before() -> None:
    times = np.array([0, 1, 2, 5, 3, 4, 6])
    keys = np.array([True, False, False, True, False, False, False])
    ones, clip = np.ones(7, bool), ClipTimes.evenly(7, 7)
    table = PacketTable(times, np.arange(7), np.arange(7), keys, ones, timed=True, reordered=True, clip=clip)
    assert first_range(table, keys, [5]) == (0, [5])
    assert first_range(table, keys, [6]) == (3, [6])
    assert first_range(table, keys, [6, 1]) == (0, [1])
    assert first_range(table, keys, [4, 6]) == (0, [4, 6])


@pytest.mark.skipif(not REAL.is_dir(), reason="no folder of real videos")
@pytest.mark.parametrize("path", sorted(REAL.glob("*.mp4")), ids=lambda path: path.name)
def test_real_videos_equal_plain_decoding(path: Path) -> None:
    expected = decode_plainly(path)
    assert probe(path).num_frames == len(expected)
    indices = np.linspace(0, len(expected) - 1, 24).astype(int).tolist()
    for picture, index in zip(read_frames(path, indices), indices, strict=True):
        assert np.array_equal(picture, expected[index]), index
