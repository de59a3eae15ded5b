"""The eight ways in which a file may ask to turn and mirror its pictures."""

from pathlib import Path

import av
import numpy as np
import pytest
from ffmpeg_program import ffmpeg
from synthetic_clips import write_clip

from vidtune.media.orientation import Orientation
from vidtune.media.preprocessing.frame_sampling import frame_chooser
from vidtune.media.probe import probe
from vidtune.media.video import read_clip, read_frames

# Options of ffmpeg -> how stored pixels (H, W, 3) are shown; None: only compared with ffmpeg.
SHOWN = {
    "": lambda x: x,
    "-display_rotation 90": lambda x: np.rot90(x, 1),
    "-display_rotation 180": lambda x: np.rot90(x, 2),
    "-display_rotation 270": lambda x: np.rot90(x, 3),
    "-display_hflip": lambda x: x[:, ::-1],
    "-display_vflip": lambda x: x[::-1],
    "-display_rotation 90 -display_hflip": None,
    "-display_rotation 90 -display_vflip": None,
}


def marked(options: str) -> list[str]:
    """Options of an input, for its video."""
    return options.replace("-display_rotation", "-display_rotation:v").replace("flip", "flip:v").split()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("stored") / "stored.mp4", num_frames=3, options={"crf": "1"})


def shown_by_ffmpeg(path: Path, folder: Path) -> np.ndarray:
    """First frame as ffmpeg itself turns it: uint8 (H, W, 3)."""
    ffmpeg("-i", path, "-frames:v", 1, folder / "shown.png")
    with av.open(str(folder / "shown.png")) as picture:
        return next(picture.decode(video=0)).to_ndarray(format="rgb24")


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("options", SHOWN)
def test_pictures_are_turned_as_ffmpeg_turns_them(tmp_path: Path, stored: Path, options: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    ffmpeg(*marked(options), "-i", stored, "-c", "copy", path)
    found = read_frames(path, [0])[0]
    shown = shown_by_ffmpeg(path, tmp_path).astype(int)
    assert np.abs(found - shown).mean() < 2, "colours are rounded in another way, places are equal"
    if SHOWN[options] is not None:
        assert np.array_equal(found, SHOWN[options](read_frames(stored, [0])[0]))
    info = probe(path)
    assert (info.height, info.width) == found.shape[:2]
    assert read_clip(path, frame_chooser("linspace", 2), as_probed=True)[1] == info
    assert info.mirrored == ("flip" in options)


def test_the_eight_orientations_differ_and_keep_every_pixel() -> None:
    pixels = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    views = [Orientation(turn, flip).apply(pixels) for turn in (0, 90, 180, 270) for flip in (False, True)]
    assert len({view.tobytes() + bytes(view.shape) for view in views}) == 8
    assert all(np.array_equal(np.sort(view, None), np.sort(pixels, None)) for view in views)
