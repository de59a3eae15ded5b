from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from synthetic_clips import decode_plainly, write_clip

from vidtune.errors import MediaError
from vidtune.media.clip_times import Part
from vidtune.media.preprocessing.frame_sampling import frame_indices
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.media.probe import probe
from vidtune.registry import RESIZE_RULES


def test_loading_a_video_samples_and_transforms_its_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=21)
    preprocessing = VideoPreprocessing(num_frames=4, size=24)
    frames = decode_plainly(path)
    expected = preprocessing.apply(np.stack([frames[index] for index in frame_indices("linspace", 21, 4)]))
    loaded = preprocessing.load(str(path))
    assert loaded.dtype == np.float32
    assert loaded.shape == preprocessing.output_shape() == (3, 4, 24, 24)
    assert np.array_equal(loaded, expected.numpy())


def test_loading_an_image_gives_the_announced_shape(tmp_path: Path) -> None:
    Image.new("RGB", (50, 30), (255, 0, 0)).save(tmp_path / "red.png")
    preprocessing = ImagePreprocessing(size=20)
    loaded = preprocessing.load(str(tmp_path / "red.png"))
    assert loaded.shape == preprocessing.output_shape() == (3, 20, 20)
    assert loaded[0].min() > 1.9 and loaded[1].max() < -1.7


@pytest.mark.parametrize("padded", [False, True])
def test_blind_images_are_black_pictures_of_the_same_size(tmp_path: Path, padded: bool) -> None:
    Image.new("RGB", (50, 30), (255, 0, 0)).save(tmp_path / "red.png")
    preprocessing = ImagePreprocessing(size=20, pad_to_square=padded, blind=True)
    sighted = preprocessing.model_copy(update={"blind": False})
    expected = sighted.apply(np.zeros((30, 50, 3), np.uint8)).numpy()
    assert np.array_equal(preprocessing.load(str(tmp_path / "red.png")), expected)


def test_blind_videos_are_black_but_the_file_must_be_one(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=3)
    preprocessing = VideoPreprocessing(num_frames=2, size=16, blind=True)
    loaded = torch.from_numpy(preprocessing.load(str(path)))
    assert torch.allclose(loaded, loaded[:, :1, :1, :1].expand_as(loaded))
    assert (loaded < -1.4).all()
    with pytest.raises(MediaError, match="does not exist"):
        preprocessing.load(str(tmp_path / "missing.mp4"))


def test_the_flip_mirrors_the_whole_clip_and_needs_a_seed(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", num_frames=5)
    plain = VideoPreprocessing(num_frames=3, size=16).load(str(path), seed=1)
    flipping = VideoPreprocessing(num_frames=3, size=16, flip_probability=1.0)
    assert np.array_equal(flipping.load(str(path), seed=1), plain[..., ::-1])
    assert np.array_equal(flipping.load(str(path)), plain)


@pytest.mark.parametrize("blind", [False, True])
def test_a_file_of_the_other_medium_is_named_as_such(tmp_path: Path, blind: bool) -> None:
    video = write_clip(tmp_path / "clip.mp4", num_frames=3)
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    with pytest.raises(MediaError, match=r"picture\.png: is an image file where a video is expected"):
        VideoPreprocessing(blind=blind).load(str(tmp_path / "picture.png"))
    with pytest.raises(MediaError, match=r"clip\.mp4: is (not an image|a video file where an image)"):
        ImagePreprocessing(blind=blind).load(str(video))


@pytest.mark.parametrize("preprocessing", [ImagePreprocessing(pad_to_square=True), VideoPreprocessing(num_frames=4)])
def test_settings_survive_json(preprocessing: ImagePreprocessing | VideoPreprocessing) -> None:
    adapter: TypeAdapter[Preprocessing] = TypeAdapter(Preprocessing)
    assert adapter.validate_json(preprocessing.model_dump_json()) == preprocessing


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="num_frame"):
        VideoPreprocessing(num_frame=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("blind", [False, True])
def test_a_picture_with_a_frame_rate_is_a_clip_of_one_frame(tmp_path: Path, blind: bool) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (20, 30, 3), dtype=np.uint8)
    path, part = str(tmp_path / "picture.png"), Part(fps=1.0)
    Image.fromarray(pixels).save(path)
    sampled: dict[str, Any] = {"num_frames": 40, "min_frames": 40, "multiple_of": 4, "sampling": "per_second_middles"}
    clip = VideoPreprocessing(size=16, resize="pad_bicubic", blind=blind, **sampled)
    found = clip.load(path, part=part)
    assert found.shape == clip.output_shape(probe(path).of_part(path, part)) == (3, 4, 16, 16)
    padded = ImagePreprocessing(size=16, resize="stretch_bicubic", pad_to_square=True, blind=blind)
    if not blind:
        torch.testing.assert_close(torch.from_numpy(found), padded.apply(pixels)[:, None].expand(-1, 4, -1, -1))
    middle = np.array([[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    boxes = RESIZE_RULES["pad_bicubic"].boxes(middle, 20, 30, clip)
    assert np.allclose(boxes, [[0, 5 / 30, 1, 25 / 30], [0.5] * 4])
