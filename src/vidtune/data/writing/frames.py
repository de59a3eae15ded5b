"""Extracts the frames of videos as numbered pictures, at exactly so many per second.

A folder of such frames stands for the video: with their number per second as frame rate, it lasts as long.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from vidtune.data.media_files import VIDEO_SUFFIXES
from vidtune.errors import ForeignFileError, MediaError, UserError
from vidtune.foreign.documents import read_text
from vidtune.machine.files import atomic_folder
from vidtune.machine.progress import ProgressCallback, no_progress
from vidtune.media.clip_times import ClipTimes
from vidtune.media.probe import probe
from vidtune.media.video import read_clip

JPEG_QUALITY = 95
RATE = ".frames_per_second"
RATE_LIMIT = 100
"""Bytes of that file."""
"""Name of the file, beside the frames of a video, that holds their number per second."""


def videos_in(places: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Video -> the folder of its frames: below ``out``, under the name of the video without its suffix.

    Args:
        places: video files, and folders whose videos are taken, with their subfolders.

    Raises:
        UserError: a place does not exist, a folder holds no video, or two videos have one name.
    """
    found: dict[Path, Path] = {}
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: no such file or folder")
        files = [place]
        if place.is_dir():
            files = sorted(path for path in place.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES[1:])
            if not files:
                raise UserError(f"{place}: holds no video ({', '.join(VIDEO_SUFFIXES[1:])})")
        for file in files:
            inner = file.relative_to(place).with_suffix("") if place.is_dir() else Path(file.stem)
            found[file] = out / inner
    names = list(found.values())
    if twice := next((name for name in names if names.count(name) > 1), None):
        both = [str(file) for file, name in found.items() if name == twice]
        raise UserError(f"{both[0]} and {both[1]}: their frames would lie in one folder, {twice}; rename one of them")
    return found


def extract_frames(
    videos: dict[Path, Path], rate: float, progress: ProgressCallback = no_progress
) -> Iterator[tuple[Path, int, MediaError | None]]:
    """Write the frames of each video, ``<name>_<n>.jpg`` from n = 1 on, and their rate in `RATE`.

    A folder that is there is left as it is, if it was made at this rate.

    Args:
        videos: video -> folder of its frames; see `videos_in`.
        rate: frames per second R. Picture n is the frame that is shown at (n - 1/2) / R seconds.

    Yields:
        The video, the number of its frames, and what is wrong with it; other videos are extracted all the same.
    """
    for done, (video, folder) in enumerate(videos.items(), 1):
        try:
            yield video, _there(video, folder, rate) or _extract(video, folder, rate), None
        except MediaError as error:
            yield video, 0, error
        progress("videos", done, len(videos))


def _there(video: Path, folder: Path, rate: float) -> int:
    """Number of frames that a folder holds already. Raises MediaError for those of another rate."""
    number = len(list(folder.glob("*.jpg"))) if folder.is_dir() else 0
    if not number:
        return 0
    try:
        same = float(read_text(folder / RATE, limit=RATE_LIMIT)) == rate
    except ForeignFileError as error:  # made by another program, or before rates were written
        is_missing = isinstance(error.__cause__, FileNotFoundError)
        same = is_missing and number == _wanted(probe(video).times.duration, rate)
    except ValueError:
        same = False
    if not same:
        raise MediaError(
            str(folder),
            f"holds {number} frames at another rate than {rate:g} per second; delete it, or take another --out",
        )
    return number


def _wanted(duration: float, rate: float) -> int:
    return max(1, round(duration * rate))


def _extract(video: Path, folder: Path, rate: float) -> int:
    """Write the frames of a video; they get their numbers at the end, since decoding may have to begin again."""
    written = itertools.count()

    def choose(times: ClipTimes) -> list[int]:
        if not times.known:
            raise MediaError(str(video), "its frames have no times, so none can be taken at a number per second")
        return times.indices_at((np.arange(_wanted(times.duration, rate)) + 0.5) / rate).tolist()

    with atomic_folder(folder) as building, TemporaryDirectory(dir=building) as pictures:

        def write(pixels: np.ndarray) -> np.ndarray:
            numbers = list(itertools.islice(written, len(pixels)))
            for number, picture in zip(numbers, pixels, strict=True):
                Image.fromarray(picture).save(Path(pictures, f"{number}.jpg"), quality=JPEG_QUALITY)
            return np.array(numbers)

        kept = read_clip(video, choose, keep=write)[0].tolist()
        for place, number in enumerate(kept, start=1):
            Path(pictures, f"{number}.jpg").rename(building / f"{video.stem}_{place}.jpg")
        (building / RATE).write_text(f"{rate!r}\n")
    return len(kept)
