"""An extraction as the launcher's children do it."""

import os
from pathlib import Path

import torch
from feature_world import stream_into

from vidtune.features.extract import extract
from vidtune.features.media_listing import refs_of_folder, share_of
from vidtune.media.pool import MediaPool

SHARD_BYTES = 3000
"""Two clips: a run writes many shards."""


def extract_here(videos: str, store: str, everything: bool = False) -> None:
    """Store the features of this rank's share of a folder, or of everything."""
    torch.set_num_threads(1)
    stream = stream_into(Path(store), shard_bytes=SHARD_BYTES, shard_seconds=1e9)
    place = (0, 1) if everything else (int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    with MediaPool(0, None) as pool:
        extract(share_of(refs_of_folder(Path(videos), [stream]), *place), {"video": stream}, pool, batch_size=1)
