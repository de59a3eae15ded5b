"""Large pictures as squares: the grid, the shape that metadata tell, what is loaded, and several pictures together."""

import numpy as np
import pytest
import torch
from PIL import Image

from vidtune.data.sample import MediaRef
from vidtune.features.cache import FeatureCache
from vidtune.features.collection import CollectionSpec
from vidtune.media.preprocessing.kinds import among, reads_extras
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing
from vidtune.media.preprocessing.tiles import TilesPreprocessing
from vidtune.media.probe import probe
from vidtune.models.towers.clip import ClipTowerConfig
from vidtune.processing.plain_inputs import read_item
from vidtune.processing.readings import MediaReader
from vidtune.processing.stream_settings import Measure, StreamSettings

TILES = TilesPreprocessing(size=16, largest=3)
CONNECTOR = {
    "type": "token_merging", "input_size": 16, "output_size": 8, "group_tokens": 16, "tokens": 4, "heads": 4,
    "tiled": True,
}  # fmt: skip
TOWER = {
    "type": "umt", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4,
    "image_size": 16, "patch_size": 4,
}  # fmt: skip


@pytest.fixture
def picture(tmp_path):
    """A picture of 40 x 20 pixels, each different."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    path = tmp_path / "wide.png"
    Image.fromarray(pixels).save(path)
    return str(path), pixels


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [(16, 16, (1, 1)), (16, 32, (1, 2)), (17, 17, (2, 2)), (500, 20, (3, 1)), (20, 40, (2, 3)), (1, 1, (1, 1))],
)
def test_the_grid_keeps_most_pixels_and_then_has_least_room(height, width, grid):
    assert TILES.grid(height, width) == grid
    assert TilesPreprocessing(size=16, largest=0).grid(height, width) == (0, 0)


@pytest.mark.parametrize("values", ["float32", "uint8"])
def test_a_picture_becomes_itself_and_its_crops_row_by_row(values, picture):
    path, pixels = picture
    steps = TILES.model_copy(update={"pixels": values})
    loaded, extras = steps.load_item(path, {})
    assert loaded.shape == steps.output_shape(probe(path)) == (7, 3, 1, 16, 16) in steps.output_shapes()
    assert loaded.dtype == values and extras["tiles"].tolist() == [2, 3]
    found = steps.to_float(torch.from_numpy(loaded))
    if values == "uint8":
        torch.testing.assert_close(found, torch.from_numpy(TILES.load_item(path, {})[0]), atol=1e-5, rtol=0)
    whole = ImagePreprocessing(size=16, resize="stretch_bicubic")
    large = np.asarray(Image.fromarray(pixels).resize((48, 32), Image.Resampling.BICUBIC))
    squares = [pixels, *(large[top : top + 16, left : left + 16] for top in (0, 16) for left in (0, 16, 32))]
    for square, given in zip(squares, found, strict=True):
        torch.testing.assert_close(given[:, 0], whole.apply(np.ascontiguousarray(square)), atol=1e-5, rtol=0)


def test_blind_pictures_are_black_and_settings_survive(picture):
    black = TILES.model_copy(update={"blind": True}).load_item(picture[0], {})[0]
    assert black.shape == (7, 3, 1, 16, 16) and np.ptp(black, axis=(0, 2, 3, 4)).max() == 0
    for steps in (TILES, TilesPreprocessing(resize="crop")):
        assert TilesPreprocessing.model_validate(steps.model_dump(mode="json")) == steps


def test_each_of_several_pictures_is_one_padded_square(picture):
    path, pixels = picture
    several = among(TILES, 2)
    values, extras = several.load_item(path, {})
    assert values.shape == several.output_shape(probe(path)) == (1, 3, 1, 16, 16) and not extras["tiles"].any()
    padded = ImagePreprocessing(size=16, resize="stretch_bicubic", pad_to_square=True).apply(pixels)
    torch.testing.assert_close(torch.from_numpy(values[0, :, 0]), padded)
    assert among(TILES, 1) == TILES and among(ImagePreprocessing(), 3) == ImagePreprocessing()


def test_lengths_and_loading_ask_how_many_pictures_a_prompt_has(picture, tmp_path):
    path, pixels = picture
    settings = StreamSettings(
        preprocessing=TILES, placeholder_id=9, num_tokens=Measure(tower=TOWER, connector=CONNECTOR)
    )
    assert settings.takes_features and not reads_extras(TILES)
    reader = MediaReader({"image": settings}, {}, (), probe)
    one, two = MediaRef("image", path), MediaRef("image", path, among=2)
    assert reader.counted([one]) == [one] and reader.counted([one, one]) == [two, two]
    for number, (ref, tokens) in enumerate([(one, 7 * 4), (two, 4)], 1):
        [(read, measured)] = reader.readings(ref)
        assert read == ref and measured.tokens == tokens
        for item in (path, pixels):
            [(_, measured, loaded)] = read_item(reader, "image", item, number)
            assert measured.tokens == tokens and len(loaded.values) * 4 == tokens
            assert loaded.extras["tiles"].tolist() == ([2, 3] if number == 1 else [0, 0])
    tower = ClipTowerConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    cache = FeatureCache(tmp_path, CollectionSpec("0", {"kind": type(tower).__name__}, {}, "float32"))
    assert len({cache.key(one), cache.key(two), cache.key(MediaRef("image", path, among=3))}) == 3
    cache.close()
