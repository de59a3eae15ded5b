"""Drawings of a target: the boxes are where they were given, in the video and in the strip of its frames."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from moving_square import HEIGHT, WIDTH, pictures, place
from PIL import Image

from vidtune.errors import MediaError, UserError
from vidtune.media.boxes import drawing
from vidtune.media.boxes.drawing import ASKED, TRACKED, check_drawing, draw_target
from vidtune.media.boxes.forms import Box
from vidtune.media.boxes.located import BoxAt, LocatedTarget
from vidtune.media.probe import probe
from vidtune.media.video import every_frame


def outlined(picture: np.ndarray, box: Box, colour: tuple[int, int, int]) -> bool:
    """Whether the outline of a box has a colour, up to what a codec changes."""
    left, top, right, bottom = (round(number) for number in box)
    edges = (picture[top, left:right], picture[bottom - 1, left:right], picture[top:bottom, left])
    return bool(np.abs(np.concatenate(edges).astype(int) - colour).mean() < 40)


def tracked(target: LocatedTarget, frames: list[int]) -> LocatedTarget:
    return replace(target, track=tuple(BoxAt(frame, frame / 12, place(frame)) for frame in frames))


def test_the_video_shows_the_boxes_and_those_between_them(moving: LocatedTarget, tmp_path: Path) -> None:
    target = tracked(moving, [2, 8])
    draw_target(target, tmp_path / "out.mp4", 8)
    assert probe(tmp_path / "out.mp4").times.starts.tolist() == target.info.times.starts.tolist()
    shown = list(every_frame(tmp_path / "out.mp4"))
    for frame, colour in ((2, TRACKED), (4, TRACKED), (8, TRACKED), (12, ASKED)):
        assert outlined(shown[frame], place(frame), colour), frame
    assert outlined(shown[13], place(12), ASKED)  # near the asked moment
    assert all(not outlined(shown[20], place(n), c) for n in (8, 12, 20) for c in (ASKED, TRACKED))


def test_a_folder_of_frames_of_odd_size_becomes_a_video(moving: LocatedTarget, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, picture in enumerate(pictures()[:6]):
        Image.fromarray(picture[:63, :95]).save(folder / f"{number}.png")
    target = LocatedTarget(str(folder), probe(folder), BoxAt(3, None, place(3)))
    draw_target(target, tmp_path / "out.mp4", 8)
    shown = list(every_frame(tmp_path / "out.mp4"))
    assert len(shown) == 6 and shown[0].shape == (64, 96, 3) and outlined(shown[3], place(3), ASKED)
    draw_target(target, tmp_path / "out.png", 8)
    assert Image.open(tmp_path / "out.png").size == (round(95 * 240 / 63), 260)


def test_the_strip_shows_the_asked_frame_and_those_of_the_track(moving: LocatedTarget, tmp_path: Path) -> None:
    draw_target(tracked(moving, list(range(0, 24))), tmp_path / "out.png", 3)
    strip, scale = np.asarray(Image.open(tmp_path / "out.png")), 240 / HEIGHT
    width = round(WIDTH * scale)
    assert strip.shape == (260, 4 * width, 3)
    for number, (frame, colour) in enumerate(((12, ASKED), (0, TRACKED), (12, TRACKED), (23, TRACKED))):
        left, top, right, bottom = (scale * side for side in place(frame))
        assert outlined(strip[:240, number * width :], (left, top, right, bottom), colour), frame


def test_every_frame_is_what_plain_decoding_gives(moving: LocatedTarget) -> None:
    with av.open(moving.video) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert all(map(np.array_equal, every_frame(moving.video), plain)) and len(plain) == 24


@pytest.mark.parametrize(
    "out, line",
    [
        ("a.gif", r"ends in .mp4 .* or .png"),
        ("no/a.mp4", "no: no such folder"),
        ("v.mp4", "the video itself"),
        ("fr.png", "fr.png: cannot be written"),
        ("fr.png/a.png", "lies in the folder of frames"),
    ],
)
def test_a_drawing_that_cannot_be_written_is_refused(out: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "fr.png").mkdir()
    with pytest.raises(UserError, match=line):
        check_drawing(tmp_path / out, tmp_path / (out if out == "v.mp4" else "fr.png"))


@pytest.mark.parametrize(
    ("number", "size", "line"), [(5, 64, "ends after 5 of its 24 frames"), (24, 63, "frame 0 is 96x63")]
)
def test_a_video_that_is_not_as_its_header_says_is_not_drawn(
    moving: LocatedTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, size: int, line: str
) -> None:
    monkeypatch.setattr(drawing, "every_frame", lambda video: iter([one[:size] for one in pictures()[:number]]))
    with pytest.raises(MediaError, match=line):
        draw_target(moving, tmp_path / "out.mp4", 8)
    assert not list(tmp_path.iterdir())
