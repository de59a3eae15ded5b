"""Parts of a file from a start to an end: metadata, frames, sound."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_clips import decode_plainly, write_clip

from vidtune.errors import ItemError
from vidtune.media import video
from vidtune.media.clip_times import Part
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.media.preprocessing.sound import FbankPreprocessing
from vidtune.media.preprocessing.tiles import TilesPreprocessing
from vidtune.media.probe import probe
from vidtune.media.video import every_frame
from vidtune.media.worker import Loaded, LoadJob, execute

PER_SECOND = VideoPreprocessing(size=16, num_frames=8, multiple_of=2, sampling="per_second_middles", pixels="uint8")


def test_a_part_is_decoded_as_a_clip_of_its_own(tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "clip.mp4", num_frames=40))
    frames = decode_plainly(path)
    part = Part(1.0, 3.5)
    info = probe(path).of_part(path, part)
    assert (info.num_frames, info.duration, info.fps) == (25, 2.5, 10.0)
    expected = [frames[10 + index] for index in PER_SECOND.frame_indices(info)]
    assert PER_SECOND.output_shape(info) == (3, 2, 16, 16)
    assert np.array_equal(PER_SECOND.read(path, part), np.stack(expected))
    loaded = execute(LoadJob(path, PER_SECOND, part=part))
    assert isinstance(loaded, Loaded)
    assert np.array_equal(loaded.values, PER_SECOND.apply(np.stack(expected)).numpy())
    with pytest.raises(ItemError, match=r"clip\.mp4: its part from 4 s on was asked for, but it ends after 4\.00 s"):
        execute(LoadJob(path, PER_SECOND, part=Part(4.0)))


def test_a_clip_in_blocks_equals_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write_clip(tmp_path / "clip.mp4", num_frames=11))
    for antialias in (False, True):
        steps = VideoPreprocessing(size=24, num_frames=16, sampling="middles", antialias=antialias)
        whole = steps.load(path)
        assert np.array_equal(whole, steps.apply(steps.read(path)).numpy())
        monkeypatch.setattr(video, "BLOCK_BYTES", 3 * 48 * 64 * 3)
        assert np.array_equal(steps.load(path), whole)
        monkeypatch.undo()


def test_folders_of_frames_have_the_rate_that_is_given(tmp_path: Path) -> None:
    for number in range(12):
        Image.new("RGB", (6, 4), (number, 0, 0)).save(tmp_path / f"shot_{number}.png")
    path, folder = str(tmp_path), PER_SECOND.model_copy(update={"folder_fps": 2.0})
    assert probe(path).of_part(path, folder.part_read(None)).duration == 6.0
    assert probe(path).of_part(path, folder.part_read(Part(fps=4.0))).duration == 3.0
    assert probe(path).of_part(path, None).duration == 0.0
    assert PER_SECOND.load(path, part=Part(2.0, 6.0))[0, :, 0, 0].tolist() == [2, 3, 4, 5]
    assert len(list(every_frame(path))) == 12


def test_a_gif_is_a_video(tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "clip.gif", num_frames=12, codec="gif", pixel_format="rgb8"))
    assert PER_SECOND.load(path).shape == (3, 2, 16, 16)
    assert PER_SECOND.load(path, part=Part(fps=1.0)).shape == (3, 8, 16, 16)


def test_sound_of_a_part_is_cut_from_the_whole(tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "clip.mp4", num_frames=60, sound=True))
    steps = FbankPreprocessing()
    whole, part = steps.read(path), Part(1.0, 5.0)
    found = steps.read(path, part)
    assert np.array_equal(found, whole[16000:80000])
    assert steps.load(path, part=part).shape == steps.output_shape(probe(path).of_part(path, part))
    assert len(steps.read(path, Part(1.0))) == len(whole) - 16000


def test_a_picture_has_no_part(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    with pytest.raises(ItemError, match="is read as a picture, which has no part"):
        ImagePreprocessing(size=8).load(str(tmp_path / "a.png"), part=Part(1.0))


@pytest.mark.parametrize("settings", [{"min_frames": 9}, {"sampling": "linspace", "multiple_of": 4}])
def test_impossible_bounds_of_frames_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="min_frames"):
        VideoPreprocessing(**{"num_frames": 8, "sampling": "per_second_middles", **settings})


def test_later_settings_are_stored_where_they_are_set() -> None:
    assert not {"min_frames", "multiple_of", "folder_fps"} & VideoPreprocessing().model_dump().keys()
    assert PER_SECOND.model_dump()["multiple_of"] == 2
    assert VideoPreprocessing.model_validate(PER_SECOND.model_dump()) == PER_SECOND


def test_the_frame_with_which_a_part_of_a_video_begins_is_a_picture(tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "clip.mp4", num_frames=40))
    frame, info = decode_plainly(path)[13], probe(path)
    part = Part(info.times.second_of(13))
    square, tiles = ImagePreprocessing(size=8), TilesPreprocessing(size=16, largest=2)
    assert np.array_equal(square.read(path, part), frame)
    found = execute(LoadJob(path, tiles, part=part))
    assert isinstance(found, Loaded) and np.array_equal(found.values, tiles.apply(frame).numpy())
    assert found.values.shape == tiles.output_shape(info.of_part(path, part))
    blind = square.model_copy(update={"blind": True})
    assert np.array_equal(blind.read(path, part), np.zeros_like(frame))
    with pytest.raises(ItemError, match=r"from 4 s on was asked for, but it ends after 4\.00 s"):
        square.load(path, part=Part(4.0))
