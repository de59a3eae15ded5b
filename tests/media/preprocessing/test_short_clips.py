"""Clips with fewer frames than are wanted, which a rule fills up with zeros."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from synthetic_clips import decode_plainly, write_clip

from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing

SETTINGS = VideoPreprocessing(size=16, num_frames=5, short_clips="zeros")


@pytest.mark.parametrize(("frames", "shown"), [(3, [0, 1, 2]), (5, [0, 1, 2, 3, 4]), (9, [0, 2, 4, 6, 8])])
def test_a_short_clip_shows_each_frame_once_and_then_zeros(tmp_path, frames, shown):
    path = str(write_clip(tmp_path / "clip.mp4", num_frames=frames))
    plain = VideoPreprocessing(size=16, num_frames=len(shown))
    pixels = np.stack([decode_plainly(path)[index] for index in shown])
    values = SETTINGS.load(path)
    assert values.shape == (3, 5, 16, 16)
    assert np.array_equal(values[:, : len(shown)], plain.apply(pixels).numpy())
    assert not values[:, len(shown) :].any()
    assert torch.equal(SETTINGS.apply(np.stack(decode_plainly(path))), torch.from_numpy(values))


def test_the_rule_is_stored_only_where_it_is_set():
    assert "short_clips" not in VideoPreprocessing().model_dump()
    assert SETTINGS.model_dump()["short_clips"] == "zeros"
    for other in ({"pixels": "uint8"}, {"sampling": "per_second"}):
        with pytest.raises(ValidationError, match="short_clips"):
            VideoPreprocessing(short_clips="zeros", **other)
