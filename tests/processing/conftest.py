"""A tiny tokenizer and a processor around it."""

import pytest
from tiny_stage import tiny_processor
from tiny_tokenizers import tiny_tokenizer
from transformers import LlamaTokenizer

from vidtune.processing.processor import VideoLMProcessor


@pytest.fixture(scope="session")
def tokenizer() -> LlamaTokenizer:
    return tiny_tokenizer(legacy=True)


@pytest.fixture(scope="session")
def processor() -> VideoLMProcessor:
    return tiny_processor()
