"""Every broken file ends in one line that names it and says what is wrong, from every way of reading it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import synthetic_clips as clips
from PIL import Image
from synthetic_clips import write_clip

from vidtune.errors import MediaError
from vidtune.media.image import read_image
from vidtune.media.preprocessing.frame_sampling import frame_chooser
from vidtune.media.probe import probe
from vidtune.media.video import read_clip


def empty(folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def missing(folder: Path) -> Path:
    return folder / "missing.mp4"


def text(folder: Path) -> Path:
    (folder / "text.mp4").write_text("This is not a video.\n" * 100)
    return folder / "text.mp4"


def playlist(folder: Path) -> Path:
    clip = write_clip(folder / "clip.mp4", num_frames=3)
    (folder / "list.mp4").write_text(f"ffconcat version 1.0\nfile {clip}\n")
    return folder / "list.mp4"


def index_lost(folder: Path) -> Path:
    content = write_clip(folder / "whole.mp4", num_frames=30).read_bytes()
    (folder / "cut.mp4").write_bytes(content[: len(content) // 2])
    return folder / "cut.mp4"


def tail_lost(folder: Path) -> Path:
    content = write_clip(folder / "whole.mp4", num_frames=30, muxing={"movflags": "faststart"}).read_bytes()
    (folder / "cut.mp4").write_bytes(content[: len(content) * 3 // 4])
    return folder / "cut.mp4"


def fragment_lost(folder: Path) -> Path:
    options = {"movflags": "frag_keyframe+empty_moov"}
    content = write_clip(folder / "whole.mp4", options=clips.WITH_B_FRAMES, muxing=options).read_bytes()
    (folder / "cut.mp4").write_bytes(content[: content.rfind(b"mdat") + 50])
    return folder / "cut.mp4"


def cluster_lost(folder: Path) -> Path:
    content = write_clip(folder / "whole.mkv", options=clips.WITHOUT_B_FRAMES).read_bytes()
    (folder / "cut.mkv").write_bytes(content[: len(content) // 2])
    return folder / "cut.mkv"


def no_image(folder: Path) -> Path:
    (folder / "notes.txt").write_text("nothing")
    return folder


def sound_only(folder: Path) -> Path:
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        tone.sample_rate = 16000
        container.mux(stream.encode(tone))
        container.mux(stream.encode())
    return folder / "sound.mp4"


BROKEN = [
    (empty, "file is empty"),
    (missing, "file does not exist"),
    (text, "is not a video file of a known format"),
    (playlist, "is not a video file of a known format"),
    (index_lost, "its index (moov) is missing: the file is cut off, copy or download it again"),
    (tail_lost, "frames are missing at its end"),
    (fragment_lost, "frames are missing at its end"),
    (cluster_lost, "is cut off: it ends after"),
    (no_image, "is a folder without image files"),
]


def read_eight(path: Path) -> object:
    return read_clip(path, frame_chooser("linspace", 8))


@pytest.mark.parametrize(("make", "reason"), BROKEN, ids=[make.__name__ for make, _ in BROKEN])
@pytest.mark.parametrize("read", [probe, read_eight], ids=["probe", "read_clip"])
def test_a_broken_video_is_named_with_its_reason(
    tmp_path: Path, make: Callable[[Path], Path], reason: str, read: Callable[[Path], object]
) -> None:
    path = make(tmp_path)
    with pytest.raises(MediaError) as caught:
        read(path)
    assert caught.value.path == str(path)
    assert reason in caught.value.reason
    assert "\n" not in str(caught.value)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = sound_only(tmp_path)
    assert probe(path).kind == "audio"
    with pytest.raises(MediaError, match="has no video stream"):
        read_clip(path, frame_chooser("linspace", 8))


def test_damaged_pictures_are_reported(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=20, size=(256, 192), options={"crf": "1", "g": "2"})
    content = bytearray(path.read_bytes())
    start = content.find(b"mdat") + (len(content) // 2)
    content[start : start + len(content) // 4] = bytes(len(content) // 4)
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"clip\.mp4: cannot be decoded .* damaged"):
        read_clip(path, frame_chooser("linspace", 20))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_is_named(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=2)
    path.chmod(0)
    with pytest.raises(MediaError, match="permission denied"):
        probe(path)


def test_permission_errors_become_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=2)

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    for read in (probe, read_image):
        with pytest.raises(MediaError, match="permission denied"):
            read(str(path))


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "file is empty"), (b"no picture at all", "is not an image file of a known format")]
)
def test_a_broken_image_is_named_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=f"picture.jpg: {reason}"):
        read_image(str(path))


def test_an_image_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(MediaError, match=r"picture\.png: "):
        read_image(str(path))


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="is a folder, not a file"):
        read_image(str(tmp_path))
