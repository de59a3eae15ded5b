"""Every frame read alone equals plain decoding, and its time is known: container x codec x GOP x B-frames."""

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ffmpeg_program import encode
from synthetic_clips import decode_plainly

from vidtune.media.probe import probe
from vidtune.media.video import read_frames

X264, X265 = ("-c:v", "libx264"), ("-c:v", "libx265", "-x265-params", "log-level=none")
CODECS = {
    "h264": (*X264, "-x264-params", "scenecut=0"),
    "h264_open": (*X264, "-x264-params", "scenecut=0:open-gop=1"),
    "hevc": X265,
    "mpeg2": ("-c:v", "mpeg2video"),
    "mpeg4": ("-c:v", "mpeg4"),
    "vp9": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", 8),
    "av1": ("-c:v", "libaom-av1", "-cpu-used", 8, "-usage", "realtime"),
    "mjpeg": ("-c:v", "mjpeg"),
}
TAKES = {
    "mp4": {"h264", "h264_open", "hevc", "mpeg2", "mpeg4", "vp9", "av1", "mjpeg"},
    "mov": {"h264", "h264_open", "hevc", "mpeg2", "mpeg4", "mjpeg"},
    "mkv": {"h264", "h264_open", "hevc", "mpeg2", "mpeg4", "vp9", "av1", "mjpeg"},
    "nut": {"h264", "h264_open", "hevc", "mpeg2", "mpeg4", "vp9", "mjpeg"},
    "avi": {"h264", "mpeg2", "mpeg4", "mjpeg"},
    "ts": {"h264", "h264_open", "hevc", "mpeg2", "mpeg4"},
    "flv": {"h264", "h264_open"},
    "vob": {"mpeg2"},
    "mpg": {"mpeg2"},
    "mxf": {"mpeg2", "h264"},
    "wmv": {"h264", "mpeg2", "mpeg4"},
    "webm": {"vp9", "av1"},
    "ivf": {"vp9", "av1"},
}
NO_B_FRAMES = {"vp9", "av1", "mjpeg"}  # as encoded here
GRID = [
    (container, codec, gop, b_frames)
    for container, codecs in TAKES.items()
    for codec, gop, b_frames in itertools.product(sorted(codecs), (1, 7, 250), (0, 2, 3))
    if b_frames == 0 or (codec not in NO_B_FRAMES and gop > 1)
]
FAST = [
    ("mp4", "h264_open", 7, 3),
    ("mp4", "mpeg4", 7, 2),
    ("mkv", "h264", 7, 3),
    ("mkv", "vp9", 7, 0),
    ("ts", "h264_open", 7, 2),
    ("vob", "mpeg2", 7, 2),
    ("wmv", "mpeg2", 7, 2),
    ("flv", "h264", 250, 2),
    ("mxf", "mpeg2", 1, 0),
]


def check(path: Path, codec: str, gop: int, b_frames: int, num_frames: int) -> None:
    structure = ("-g", gop) if codec in NO_B_FRAMES else ("-g", gop, "-bf", b_frames)
    encode(path, "-s", "64x48", *CODECS[codec], *structure, "-sws_flags", "neighbor", seconds=num_frames / 25)
    expected = decode_plainly(path)
    info = probe(path)
    assert info.num_frames == len(expected) == num_frames
    assert info.duration == pytest.approx(num_frames / 25, abs=0.0021)
    assert np.allclose(info.times.starts, np.arange(num_frames) / 25, atol=0.0011)
    for index, picture in enumerate(expected):
        assert np.array_equal(read_frames(path, [index])[0], picture), index


@pytest.mark.parametrize(("container", "codec", "gop", "b_frames"), FAST)
def test_every_frame_alone(tmp_path: Path, container: str, codec: str, gop: int, b_frames: int) -> None:
    check(tmp_path / f"a.{container}", codec, gop, b_frames, 18)


@pytest.mark.whole
@pytest.mark.parametrize(("container", "codec", "gop", "b_frames"), GRID)
def test_every_frame_alone_everywhere(tmp_path: Path, container: str, codec: str, gop: int, b_frames: int) -> None:
    path = tmp_path / f"a.{container}"
    check(path, codec, gop, b_frames, 40)
    if shutil.which("ffprobe") and container in ("mp4", "mov", "mkv", "webm"):
        command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-of", "json", "-show_entries"]
        told = subprocess.run([*command, "frame=pts_time", str(path)], check=True, capture_output=True, timeout=60)
        times = [float(frame["pts_time"]) for frame in json.loads(told.stdout)["frames"]]
        assert np.allclose(probe(path).times.starts, np.array(times) - times[0], atol=1e-5)
