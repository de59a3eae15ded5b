"""``pixels: uint8``: grey levels that travel as bytes and are normalised later."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_clips import write_clip

from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.media.preprocessing.transforms import CLIP_STD

Settings = ImagePreprocessing | VideoPreprocessing


def pixels_of(settings: Settings, height: int, width: int) -> np.ndarray:
    frames = (settings.num_frames,) if isinstance(settings, VideoPreprocessing) else ()
    return np.random.default_rng(0).integers(0, 256, (*frames, height, width, 3), dtype=np.uint8)


def both(settings: Settings, pixels: np.ndarray, seed: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The normalised values: at once, and by way of grey levels."""
    grey = settings.model_copy(update={"pixels": "uint8"})
    levels = grey.apply(pixels, seed)
    assert levels.dtype == torch.uint8 and tuple(levels.shape) == settings.output_shape()
    return settings.apply(pixels, seed), grey.to_float(levels)


def brightness(difference: torch.Tensor) -> torch.Tensor:
    """A difference of normalised values in grey levels."""
    return (difference.movedim(0, -1) * torch.tensor(CLIP_STD) * 255).abs()


@pytest.mark.parametrize("settings", [ImagePreprocessing(size=40), VideoPreprocessing(size=40, num_frames=3)])
def test_whole_grey_levels_give_the_very_same_values(settings: Settings) -> None:
    values, later = both(settings, pixels_of(settings, 40, 40))
    assert values.dtype == later.dtype == torch.float32
    assert torch.equal(values, later)


@pytest.mark.parametrize(
    "settings",
    [
        ImagePreprocessing(size=24, interpolation="bilinear", pad_to_square=True),
        ImagePreprocessing(size=24, antialias=True),
        VideoPreprocessing(size=24, num_frames=3),
        VideoPreprocessing(size=60, num_frames=2),
    ],
)
def test_fractions_are_rounded_by_at_most_half_a_grey_level(settings: Settings) -> None:
    pixels = pixels_of(settings, 50, 70)
    values, later = both(settings, pixels // 2 + 60)  # away from black and white, where bicubic would overshoot
    difference = brightness(values - later)
    assert 0.4 < difference.max() < 0.5001


def test_what_bicubic_shoots_over_black_and_white_is_clamped() -> None:
    settings = ImagePreprocessing(size=24)
    pixels = pixels_of(settings, 60, 60) // 128 * 255
    values, later = both(settings, pixels)
    black, white = settings.apply(np.zeros_like(pixels)), settings.apply(np.full_like(pixels, 255))
    clamped = torch.minimum(torch.maximum(values, black), white)
    assert brightness(values - later).max() > 5
    assert brightness(clamped - later).max() < 0.5001


@pytest.mark.parametrize("settings", [ImagePreprocessing(size=20, blind=True), VideoPreprocessing(size=20, blind=True)])
def test_blind_is_the_same_black(settings: Settings) -> None:
    values, later = both(settings, pixels_of(settings, 33, 50))
    assert torch.equal(values, later)


def test_flips_are_decided_before_the_pixels_travel() -> None:
    settings = VideoPreprocessing(size=30, num_frames=2, flip_probability=0.5)
    pixels = pixels_of(settings, 30, 30)
    flipped = [not torch.equal(settings.apply(pixels, seed), settings.apply(pixels)) for seed in range(8)]
    assert True in flipped and False in flipped
    for seed in range(8):
        assert torch.equal(*both(settings, pixels, seed))


@pytest.mark.parametrize("settings", [ImagePreprocessing(size=20), VideoPreprocessing(size=20, num_frames=2)])
def test_a_batch_is_normalised_as_its_items_are(settings: Settings) -> None:
    grey = settings.model_copy(update={"pixels": "uint8"})
    items = [grey.apply(pixels_of(settings, 20 + number, 30)) for number in range(3)]
    batch = grey.to_float(torch.stack(items))
    assert torch.equal(batch, torch.stack([grey.to_float(item) for item in items]))
    assert grey.to_float(batch) is batch


def test_files_give_bytes(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", num_frames=5)
    Image.new("RGB", (50, 30), (255, 0, 128)).save(tmp_path / "pink.png")
    video = VideoPreprocessing(size=16, num_frames=2, pixels="uint8").load(str(clip))
    image = ImagePreprocessing(size=16, pixels="uint8").load(str(tmp_path / "pink.png"))
    assert video.dtype == image.dtype == np.uint8
    assert [np.unique(channel).tolist() for channel in image] == [[255], [0], [128]]
