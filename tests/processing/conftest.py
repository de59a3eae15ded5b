"""A tiny tokenizer and a processor around it."""

import pytest
from tiny_tokenizers import tiny_tokenizer
from transformers import LlamaTokenizer

from vidtune.media.preprocessing import ImagePreprocessing, VideoPreprocessing
from vidtune.processing.processor import StreamSettings, VideoLMProcessor
from vidtune.systems import list_systems

FRAMES = 4


@pytest.fixture(scope="session")
def tokenizer() -> LlamaTokenizer:
    return tiny_tokenizer(legacy=True)


@pytest.fixture(scope="session")
def processor(tokenizer: LlamaTokenizer) -> VideoLMProcessor:
    vocabulary = len(tokenizer)
    image, video = ImagePreprocessing(size=28), VideoPreprocessing(size=28, num_frames=FRAMES)
    streams = {
        "image": StreamSettings(preprocessing=image, placeholder_id=vocabulary, num_tokens=4, max_items=2),
        "video": StreamSettings(
            preprocessing=video,
            placeholder_id=vocabulary + 1,
            num_tokens=5 * FRAMES,
            num_placeholders=FRAMES,
            max_items=1,
        ),
    }
    return VideoLMProcessor(tokenizer, list_systems()[0], streams)
