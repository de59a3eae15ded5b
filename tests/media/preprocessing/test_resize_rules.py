"""Resize rules: a registered rule makes the frames; settings saved before the rules existed stay as they were."""

import numpy as np
import pytest
import torch

import vidtune
from vidtune.errors import UserError
from vidtune.media.preprocessing.resize_rules import ResizeRule
from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.registry import RESIZE_RULES


@pytest.fixture
def squash():
    """A rule that ignores the aspect ratio: every second pixel of both axes, as often as needed."""

    def resize(pixels, settings):
        rows, columns = (torch.arange(settings.size) * length // settings.size for length in pixels.shape[1:3])
        return torch.from_numpy(pixels)[:, rows][:, :, columns].permute(3, 0, 1, 2) / 255.0

    vidtune.register_rule("resize.squash", ResizeRule(resize))
    yield
    RESIZE_RULES.unregister("squash")


def test_a_registered_rule_makes_the_frames_of_clips_and_pictures(squash):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3), np.uint8)
    plain = {"size": 2, "mean": (0, 0, 0), "std": (1, 1, 1), "resize": "squash"}
    clip = VideoPreprocessing(num_frames=4, **plain).apply(pixels)
    assert torch.equal(clip, torch.from_numpy(pixels[:, ::3, ::4]).permute(3, 0, 1, 2) / 255.0)
    assert torch.equal(ImagePreprocessing(**plain).apply(pixels[0]), clip[:, 0])


def test_settings_without_a_rule_are_saved_as_before(squash):
    assert "resize" not in VideoPreprocessing().model_dump(mode="json")
    assert '"resize":' not in ImagePreprocessing().model_dump_json()
    saved = VideoPreprocessing(resize="squash").model_dump(mode="json")
    assert saved["resize"] == "squash" and VideoPreprocessing.model_validate(saved).resize == "squash"


def test_an_unknown_rule_and_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="unknown resize rule"):
        VideoPreprocessing(resize="cropp")
    vidtune.register_rule("resize.wrong", ResizeRule(lambda pixels, settings: torch.zeros(3, 1, 5, 5)))
    try:
        with pytest.raises(UserError, match=r"'wrong': gives shape \(3, 1, 5, 5\); expected \(3, 1, 4, 4\)"):
            ImagePreprocessing(size=4, resize="wrong").apply(np.zeros((9, 9, 3), np.uint8))
    finally:
        RESIZE_RULES.unregister("wrong")


@pytest.mark.parametrize(
    "resize",
    [
        lambda pixels, settings: None,
        lambda pixels, settings: np.zeros((3, 1, 4, 4), np.float32),
        lambda pixels, settings: torch.full((3, 1, 4, 4), 255.0),
        lambda pixels, settings: torch.full((3, 1, 4, 4), torch.nan),
        lambda pixels, settings: torch.zeros(3, 1, 4, 4, dtype=torch.float64),
        lambda pixels, settings: pixels.no_such_thing,
    ],
)
def test_a_rule_that_gives_no_pixels_is_named(resize):
    vidtune.register_rule("resize.wrong", ResizeRule(resize))
    try:
        with pytest.raises(UserError, match="resize rule 'wrong'"):
            ImagePreprocessing(size=4, resize="wrong").apply(np.zeros((9, 9, 3), np.uint8))
    finally:
        RESIZE_RULES.unregister("wrong")
