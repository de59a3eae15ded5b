import numpy as np
import pytest
import torch

from vidtune.media.preprocessing import transforms
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing

TOLERANCE = 1e-5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(480, 853), (853, 480), (37, 61), (224, 224), (1, 1), (225, 224), (1080, 300)])
def test_resize_and_crop_equals_resizing_everything(
    interpolation: transforms.Interpolation, antialias: bool, size: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    whole = torch.from_numpy(pixels).permute(3, 0, 1, 2) / 255
    expected = transforms.center_crop(transforms.resize_short_side(whole, 64, interpolation, antialias), 64)
    found = transforms.resize_and_crop(pixels, 64, interpolation, antialias)
    assert found.shape == (3, 2, 64, 64)
    assert torch.allclose(found, expected, rtol=0, atol=2e-6)


def test_the_two_published_orders_give_the_same_values() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (1, 90, 120, 3), dtype=np.uint8)
    normalized = transforms.normalize(torch.from_numpy(pixels).permute(3, 0, 1, 2) / 255)
    normalize_first = transforms.center_crop(transforms.resize_short_side(normalized, 48, "bicubic"), 48)
    resize_first = transforms.normalize(transforms.resize_and_crop(pixels, 48, "bicubic"))
    assert torch.allclose(normalize_first, resize_first, rtol=0, atol=TOLERANCE)


def test_antialiasing_makes_a_difference() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    sharp, smooth = (ImagePreprocessing(size=32, antialias=flag).apply(pixels) for flag in (False, True))
    assert (sharp - smooth).abs().mean() > 0.1


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(360, 640, (224, 398)), (640, 360, (398, 224)), (10, 10, (224, 224))]
)
def test_the_long_side_is_truncated(height: int, width: int, expected: tuple[int, int]) -> None:
    assert transforms.resized_size(height, width, 224) == expected


def test_the_two_long_side_formulas_differ_where_rounding_falls_short() -> None:
    assert transforms.resized_size(3, 87, 3) == (3, 87)
    differing = [n for n in range(225, 2000) if transforms.resized_size(49, n, 49, "ratio_first")[1] != n]
    assert differing
    assert all(transforms.resized_size(49, n, 49)[1] == n for n in differing)


def test_crop_offsets_round_halves_to_even() -> None:
    assert [transforms.crop_offset(length, 10) for length in (10, 11, 13, 15)] == [0, 0, 2, 2]


def test_padding_centres_the_picture_on_the_mean_colour() -> None:
    pixels = np.full((3, 6, 3), 9, np.uint8)
    square = transforms.pad_to_square(pixels)
    assert square.shape == (6, 6, 3)
    assert (square[1:4] == 9).all()
    assert (square[0] == (122, 116, 104)).all() and (square[4:] == (122, 116, 104)).all()


def test_a_crop_larger_than_the_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot crop 8 x 8 out of 4 x 9"):
        transforms.center_crop(torch.zeros(3, 4, 9), 8)


def test_the_flip_depends_on_the_seed_alone() -> None:
    decisions = [transforms.decide_flip(0.5, seed) for seed in range(200)]
    np.random.seed(0)
    torch.manual_seed(0)
    assert decisions == [transforms.decide_flip(0.5, seed) for seed in range(200)]
    assert 60 < sum(decisions) < 140
    assert not transforms.decide_flip(1.0, None)
