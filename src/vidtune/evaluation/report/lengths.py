"""Lengths of videos, as their files state them."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vidtune.errors import MediaError
from vidtune.machine.cores import available_cores
from vidtune.media.container import open_video
from vidtune.media.image import FRAME_SUFFIXES

_MICRO = 1_000_000


def stated_lengths(files: Mapping[str, Path]) -> dict[str, float]:
    """Returns video -> seconds that the header of its file states; nothing is decoded.

    Pictures, folders of frames, and files that are not there or state no length are left out.
    """
    with ThreadPoolExecutor(available_cores()) as pool:
        found = zip(files, pool.map(_seconds, files.values()), strict=True)
        return {video: seconds for video, seconds in found if seconds}


def _seconds(path: Path) -> float | None:
    if path.suffix.lower() in FRAME_SUFFIXES or not path.is_file():
        return None
    try:
        with open_video(str(path)) as (container, stream):
            if stream.duration and stream.time_base:
                return float(stream.duration * stream.time_base)
            return container.duration / _MICRO if container.duration else None
    except MediaError:
        return None
