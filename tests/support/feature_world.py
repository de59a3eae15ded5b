"""Real clips, a tiny tower, and a store of what it makes of them."""

from pathlib import Path

import av
import numpy as np
import torch

from vidtune.features.cache import FeatureCache
from vidtune.features.collection import CollectionSpec
from vidtune.features.tower_stream import TowerStream
from vidtune.media.kept.identity import MediaIdentities
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.preprocessing.resize_to_square import VideoPreprocessing
from vidtune.models.towers.clip import ClipTower, ClipTowerConfig

CONFIG = ClipTowerConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=28,
    patch_size=14,
    num_frames=4,
    temporal_attention=True,
)
PREPROCESSING = VideoPreprocessing(size=28, num_frames=4)


def write_clip(path: Path, seed: int = 0, frames: int = 6) -> Path:
    """A clip of moving noise."""
    noise = np.random.default_rng(seed)
    background = noise.integers(0, 255, (32, 32, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            pixels = np.roll(background, number, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")))
        container.mux(stream.encode())
    return path


def tower(seed: int = 0) -> ClipTower:
    torch.manual_seed(seed)
    return ClipTower(CONFIG).requires_grad_(False).eval()


def stream_into(
    store: Path,
    seed: int = 0,
    preprocessing: Preprocessing = PREPROCESSING,
    dtype: str = "float32",
    name: str = "video",
    **settings: float,
) -> TowerStream:
    """A stream whose tower is drawn from a seed, and its collection; ``settings`` are of the cache."""
    built = tower(seed)
    spec = CollectionSpec.of(built, CONFIG, preprocessing, dtype, {"system": "tiny", "stream": name})
    cache = FeatureCache(store, spec, MediaIdentities(), **settings)
    return TowerStream(name, built, preprocessing, cache)
