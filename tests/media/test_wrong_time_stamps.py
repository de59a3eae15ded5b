"""A frame is what decoding the whole file shows at its place, whatever the packets claim."""

from pathlib import Path

import av
import numpy as np
import pytest
import synthetic_clips as clips
from ffmpeg_program import encode, ffmpeg
from remuxed import remux
from synthetic_clips import decode_plainly, write_clip

from vidtune.errors import MediaError
from vidtune.media import video
from vidtune.media.probe import probe
from vidtune.media.video import read_frames


def assert_frames_are_right(path: Path, step: int = 1) -> None:
    expected = decode_plainly(path)
    info = probe(path)
    assert info.num_frames == len(expected)
    for index in range(0, len(expected), step):
        assert np.array_equal(read_frames(path, [index])[0], expected[index]), index
    some = [index for index in (5, 1, 16, 3) if index < len(expected)]
    assert np.array_equal(read_frames(path, some), np.stack([expected[index] for index in some]))


def assert_time(path: Path, num_frames: int, duration: float, fps: float) -> None:
    info = probe(path)
    assert (info.num_frames, round(info.duration, 3), round(info.fps, 3)) == (num_frames, duration, fps)
    assert np.allclose(info.times.starts, np.arange(num_frames) / fps, atol=0.0011)


@pytest.fixture(scope="module")
def reordered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("reordered") / "b.mkv", num_frames=30, options=clips.WITH_B_FRAMES)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.flv", "a.nut"])
def test_copies_out_of_a_format_without_presentation_times(tmp_path: Path, reordered: Path, name: str) -> None:
    def change(packet: av.Packet) -> None:
        packet.pts = packet.dts = next(counter)

    counter = iter(range(0, 3000, 100))
    path = remux(reordered, tmp_path / name, change)
    assert_frames_are_right(path, 7)
    assert_time(path, 30, 3.0, 10.0)


def test_one_group_with_wrong_times_among_right_ones(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", num_frames=36, options=clips.WITH_B_FRAMES)
    number, second_group = iter(range(36)), iter(range(1200, 2400, 100))

    def change(packet: av.Packet) -> None:
        packet.dts = None
        if next(number) in range(12, 24):
            packet.pts = next(second_group)

    assert_frames_are_right(remux(source, tmp_path / "b.mkv", change))


MPEG_2 = ("-c:v", "mpeg2video", "-bf", 2, "-g", 12)
X264 = ("-c:v", "libx264", "-bf", 3, "-g", 12)


@pytest.mark.parametrize(
    ("name", "options"), [("a.vob", MPEG_2), ("a.wmv", MPEG_2), ("a.asf", X264), ("a.mpg", MPEG_2)]
)
def test_formats_whose_times_change_after_a_seek(tmp_path: Path, name: str, options: tuple[object, ...]) -> None:
    path = encode(tmp_path / name, *options, seconds=2)
    assert_frames_are_right(path, 3)
    assert_time(path, 50, 2.0, 25.0)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_intra_refresh_is_decoded_from_a_point_that_is_whole(tmp_path: Path, suffix: str) -> None:
    options = "intra-refresh=1:bframes=0:keyint=20"
    assert_frames_are_right(encode(tmp_path / f"a.{suffix}", "-c:v", "libx264", "-x264-params", options, seconds=3), 9)


def test_a_cut_without_encoding_counts_the_frames_that_are_shown(tmp_path: Path) -> None:
    long = encode(tmp_path / "long.mp4", "-c:v", "libx264", "-preset", "ultrafast", "-bf", 3, "-g", 250, seconds=14)
    ffmpeg("-ss", 9, "-i", long, "-t", 5, "-c", "copy", tmp_path / "cut9.mp4")
    ffmpeg("-i", long, "-c", "copy", tmp_path / "copy.avi")
    cut = tmp_path / "cut9.mp4"
    count = len(decode_plainly(cut))
    assert_time(cut, count, count / 25, 25.0)
    assert 125 <= count <= 128
    assert_time(tmp_path / "copy.avi", 350, 14.0, 25.0)
    assert np.array_equal(read_frames(cut, [0, count - 1]), np.stack([decode_plainly(cut)[i] for i in (0, -1)]))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_pictures_that_need_something_before_the_start_do_not_count(tmp_path: Path, name: str) -> None:
    source = write_clip(tmp_path / "whole.mkv", num_frames=40, options=clips.OPEN_GOP)
    path = remux(source, tmp_path / name, lambda packet: None, skip=13 if name == "a.mp4" else 12)
    assert_frames_are_right(path, 5)
    assert probe(path).num_frames < 28
    assert probe(path).fps == pytest.approx(10, rel=0.01)


def test_a_recording_that_begins_anywhere_in_mpeg_2(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole.vob", *MPEG_2, seconds=3)
    path = tmp_path / "cut.vob"
    path.write_bytes(whole.read_bytes()[10 * 2048 :])
    assert_frames_are_right(path, 11)


def test_the_track_that_is_marked_as_default_is_read(tmp_path: Path) -> None:
    path, red = tmp_path / "two.mp4", "color=red:size=32x32:rate=25:duration=1"
    marks = ("-disposition:v:0", 0, "-disposition:v:1", "default")
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        red,
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=96x64:rate=25:duration=1",
        *("-map", 0),
        "-map",
        1,
        "-c:v",
        "libx264",
        *marks,
        path,
    )
    assert (probe(path).width, probe(path).num_frames) == (96, 25)
    assert read_frames(path, [3]).shape == (1, 64, 96, 3)


def test_raw_mpeg_video_is_no_picture(tmp_path: Path) -> None:
    assert_time(encode(tmp_path / "a.m2v", *MPEG_2, seconds=1), 25, 1.0, 25.0)


def test_hidden_pictures_of_vp9_do_not_count(tmp_path: Path) -> None:
    vp9 = encode(tmp_path / "a.webm", "-c:v", "libvpx-vp9", "-auto-alt-ref", 1, "-lag-in-frames", 16, "-cpu-used", 8)
    ffmpeg("-i", vp9, "-c", "copy", "-bsf:v", "vp9_superframe_split", tmp_path / "a.nut")
    assert_frames_are_right(tmp_path / "a.nut", 20)


def test_a_file_of_fragments_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    whole = encode(tmp_path / "f.mp4", *X264, "-movflags", "frag_keyframe+empty_moov").read_bytes()
    assert probe(tmp_path / "f.mp4").num_frames == 90
    last = whole.rfind(b"moof") - 4
    for end in (last + 3, last + 8, last + 40, whole.rfind(b"mdat") - 4, whole.rfind(b"mdat") + 4, len(whole) - 9):
        (tmp_path / "cut.mp4").write_bytes(whole[:end])
        with pytest.raises(MediaError, match="is cut off"):
            probe(tmp_path / "cut.mp4")
    fragments = ("-movflags", "frag_keyframe+empty_moov+default_base_moof+global_sidx")
    whole = encode(tmp_path / "g.mp4", *X264, *fragments).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: whole.rfind(b"moof") - 4])
    with pytest.raises(MediaError, match="is cut off after"):
        probe(tmp_path / "cut.mp4")


@pytest.mark.parametrize("name", ["a.avi", "a.flv", "a.asf", "a.mkv", "a.webm"])
def test_a_half_copied_file_is_refused(tmp_path: Path, name: str) -> None:
    codec = {"a.flv": "flv", "a.webm": "libvpx"}.get(name, "mpeg4")
    whole = encode(tmp_path / name, "-c:v", codec, "-g", 12, seconds=4).read_bytes()
    assert probe(tmp_path / name).num_frames == 100
    for share in (0.5, 0.9) if name == "a.flv" else (0.5, 0.9, 0.98):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(MediaError, match="cut off"):
            probe(tmp_path / name)


def test_a_live_recording_states_no_size(tmp_path: Path) -> None:
    for name in ("a.mkv", "a.asf"):
        path = encode(tmp_path / name, "-c:v", "mpeg4", "-g", 12, *(("-live", 1) if name == "a.mkv" else ()), seconds=1)
        assert probe(path).num_frames == 25


def test_the_index_is_read_instead_of_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = ("-vf", "noise=alls=60:allf=t", "-c:v", "libx264", "-preset", "ultrafast", "-g", 25, "-crf", 5)
    path = encode(tmp_path / "a.mp4", *noise, "-bf", 2, "-s", "320x240", seconds=12)

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = bytes_read()
    assert probe(path).num_frames == 300
    assert bytes_read() - before < path.stat().st_size / 4
    before = bytes_read()
    frames = read_frames(path, [10, 200])
    assert bytes_read() - before < path.stat().st_size / 3
    monkeypatch.setattr(video, "decode_groups", None)  # so that a plain reading would fail
    expected = decode_plainly(path)
    assert np.array_equal(frames, np.stack([expected[10], expected[200]]))
