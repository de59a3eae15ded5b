"""Lengths of videos, as their files state them."""

from collections.abc import Mapping
from pathlib import Path

from vidtune.evaluation.report.reading import StatedLength, read_all
from vidtune.media.image import FRAME_SUFFIXES


def stated_lengths(files: Mapping[str, Path]) -> dict[str, float]:
    """Returns video -> seconds that the header of its file states; nothing is decoded.

    Pictures, folders of frames, and files that are not there or state no length are left out.
    """
    videos = {
        name: path for name, path in files.items() if path.suffix.lower() not in FRAME_SUFFIXES and path.is_file()
    }
    found = zip(videos, read_all([StatedLength(str(path)) for path in videos.values()]), strict=True)
    return {video: float(read.values[0]) for video, read in found if read.values is not None and read.values[0] > 0}
