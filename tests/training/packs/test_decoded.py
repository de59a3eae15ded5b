"""Decoded media: each file once while it is remembered, and no more remembered than there is room for."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing
from vidtune.training.packs.decoded import Decoded, DecodedMedia

SIZE = 3 * 16 * 16 * 4


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((20, 20, 3), 40 * number, np.uint8)).save(path)
    return [str(path) for path in paths]


def fetch(media: DecodedMedia, path: str, preprocessing: ImagePreprocessing) -> Decoded:
    decoded = media.request(LoadJob(path, preprocessing))
    media.wait_for(decoded)
    return decoded


def test_what_was_wanted_lately_is_decoded_once_and_what_was_not_is_forgotten(pictures: list[str]) -> None:
    with MediaPool(0, None) as pool:
        media = DecodedMedia(pool, lambda: False, remembered_bytes=3 * SIZE)
        preprocessing = ImagePreprocessing(size=16)
        first = [fetch(media, path, preprocessing) for path in pictures[:3]]
        assert all(decoded.nbytes == SIZE and decoded.seconds > 0 for decoded in first)
        assert fetch(media, pictures[0], preprocessing) is first[0]
        fetch(media, pictures[3], preprocessing)  # takes the place of the second: the first was wanted again
        assert fetch(media, pictures[0], preprocessing) is first[0]
        assert fetch(media, pictures[1], preprocessing) is not first[1]


def test_grey_levels_take_a_quarter_of_the_room(pictures: list[str]) -> None:
    with MediaPool(0, None) as pool:
        media = DecodedMedia(pool, lambda: False, remembered_bytes=3 * SIZE // 2)
        preprocessing = ImagePreprocessing(size=16, pixels="uint8")
        first = [fetch(media, path, preprocessing) for path in pictures]
        assert [fetch(media, path, preprocessing) for path in pictures] == first


def test_as_much_is_remembered_as_may_wait_in_the_pool(pictures: list[str]) -> None:
    with MediaPool(1, 30, max_waiting=SIZE) as pool:
        media = DecodedMedia(pool, lambda: False)
        preprocessing = ImagePreprocessing(size=16)
        first = fetch(media, pictures[0], preprocessing)
        assert fetch(media, pictures[0], preprocessing) is first
        fetch(media, pictures[1], preprocessing)
        assert fetch(media, pictures[0], preprocessing) is not first
