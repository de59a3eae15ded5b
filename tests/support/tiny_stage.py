"""A stage's way from samples to examples, and annotations for it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tiny_tokenizers import tiny_tokenizer

from vidtune.media.preprocessing.resize_to_square import ImagePreprocessing, VideoPreprocessing
from vidtune.planning.lengths import ExampleMaker
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.stream_settings import StreamSettings
from vidtune.registry import SYSTEMS


@dataclass
class Source:
    """A data source of a recipe."""

    annotations: Path
    media: Path | None = None
    features: dict[str, Path] = field(default_factory=dict)
    format: str | None = None
    sampling: str | None = None
    frame_rate: float | None = None
    roots: dict[str, str] = field(default_factory=dict)
    missing_sets: str | None = None
    weight: float = 1.0


SYSTEM = SYSTEMS.names()[0]
PROMPT = SYSTEMS[SYSTEM].dialect.training_prompt


def tiny_processor(frames: int = 4) -> VideoLMProcessor:
    tokenizer = tiny_tokenizer(legacy=True)
    vocabulary = len(tokenizer)
    image, video = ImagePreprocessing(size=28), VideoPreprocessing(size=28, num_frames=frames)
    streams = {
        "image": StreamSettings(preprocessing=image, placeholder_id=vocabulary, num_tokens=4, max_items=2),
        "video": StreamSettings(
            preprocessing=video,
            placeholder_id=vocabulary + 1,
            num_tokens=5 * frames,
            num_placeholders=frames,
            max_items=1,
        ),
    }
    return VideoLMProcessor(tokenizer, SYSTEM, streams)


def maker(processor: VideoLMProcessor | None = None, **changes: Any) -> ExampleMaker:
    settings = {"prompt": PROMPT, "max_length": 300, "max_expanded_length": 280, **changes}
    return ExampleMaker(processor or tiny_processor(), **settings)


def conversations(count: int, media: bool = True, seed: int = 0) -> list[dict[str, Any]]:
    """Samples with a video, a picture, both, or text alone, of all lengths."""
    rng = np.random.default_rng(seed)
    kinds: list[dict[str, str]] = [{}]
    if media:
        kinds += [{"video": "a.mp4"}, {"image": "b.png"}, {"video": "a.mp4", "image": "b.png"}]
    samples = []
    for number in range(count):
        files = kinds[number % len(kinds)]
        tags = "".join(f"<{stream}>" for stream in files)
        turns = [
            {"from": "human", "value": tags + "what? " * rng.integers(1, 9)},
            {"from": "gpt", "value": "a dog. " * rng.integers(1, 40)},
        ]
        samples.append({**files, "conversations": turns})
    return samples


def write_annotations(path: Path, samples: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(samples))
    return path
