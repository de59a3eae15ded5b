import pytest
from tiny_models import random_example, tiny_model

from vidtune.models.video_lm import VideoLM


@pytest.fixture
def model() -> VideoLM:
    return tiny_model()


@pytest.fixture
def mixture(model):
    """Examples of every kind with their values: video, image, both, text only."""
    kinds = ("video", "image", "", "video,image", "image,image")
    return [random_example(model, kind, seed) for seed, kind in enumerate(kinds)]
