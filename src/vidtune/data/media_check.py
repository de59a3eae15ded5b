"""Looks at media files and files of features: are they there, of the right kind, and whole?"""

import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from vidtune.data.checked_files import CheckedFiles
from vidtune.media.feature_file import is_feature_file
from vidtune.media.pool import LoadJob, LoadResult, MediaPool
from vidtune.media.preprocessing.streams import Preprocessing

Progress = Callable[[str, int, int], None]
"""Called with what is being checked ("samples", "files", "decoding", "features"), how many are done, how many there
are.
"""

StreamFile = tuple[str, str]
"""A stream and the path of a file that stands in it."""
Problem = tuple[str, str]
"""A reason to count by, and a detail."""
Name = TypeVar("Name")

METADATA = "kind and length"
FEATURES = "features"
PICTURES, CLIPS, SOUND = ("image",), ("video", "frames"), ("video", "audio")
KINDS = {
    "image": PICTURES,
    "any_pixel_image": PICTURES,
    "video": CLIPS,
    "any_pixel_video": CLIPS,
    "fbank": SOUND,
    "log_mel": SOUND,
}
"""Kinds of files that each kind of preprocessing reads."""


class MediaCheck:
    """A check of files.

    Args:
        files: each with a stream that reads it.
        preprocessing: of every stream.
        known: remembers good files.
        tell: how far it is.

    Attributes:
        seconds: path -> how long a file lasts; 0 where it has no length. Known after `problems`.
    """

    def __init__(
        self, files: list[StreamFile], preprocessing: Mapping[str, Preprocessing], known: CheckedFiles, tell: Progress
    ) -> None:
        self._files, self._preprocessing, self._known, self._tell = files, preprocessing, known, tell
        self.seconds: dict[str, float] = {}

    def problems(self, pool: MediaPool, decode: bool) -> Iterator[tuple[StreamFile, Problem]]:
        """Every file that cannot be used, and why; several times if several things are wrong.

        Args:
            decode: also decode and preprocess every file, and read all features. The headers of features are not
                looked at: their tokens have been counted by then.
        """
        media: list[StreamFile] = []
        features: list[StreamFile] = []
        for file in self._files:
            if problem := _not_a_file(file[1]):
                yield file, problem
            elif file[0] in self._preprocessing:
                (features if is_feature_file(file[1]) else media).append(file)
        good: list[StreamFile] = []
        kinds = self._kinds(media, pool)
        for stream, path in media:
            kind = kinds[path]
            if not isinstance(kind, str):
                yield (stream, path), kind
            elif kind in KINDS[self._preprocessing[stream].kind]:
                good.append((stream, path))
            else:
                detail = f"is of the kind '{kind}' but stands in the stream '{stream}'"
                yield (stream, path), ("wrong kind of file", detail)
        if decode:
            yield from self._decoded(good, pool)
            yield from self._read(features, pool)

    def _kinds(self, files: list[StreamFile], pool: MediaPool) -> dict[str, str | Problem]:
        """Path -> of which kind the file is, or what is wrong with it."""
        kinds: dict[str, str | Problem] = {}
        jobs: list[tuple[str, LoadJob]] = []
        for path in dict.fromkeys(path for _, path in files):
            if earlier := self._known.kind(path, METADATA):
                kinds[path], seconds = earlier.split()
                self.seconds[path] = float(seconds)
            else:
                jobs.append((path, LoadJob(path, None)))
        for path, result in self._load(pool, jobs, "files"):
            if result.info is None:
                kinds[path] = ("unreadable file", _reason(result))
                continue
            kinds[path] = result.info.kind
            # A file of sound alone lasts as long as its sound.
            self.seconds[path] = round(result.info.duration or result.info.audio_seconds, 2)
            self._known.add(path, METADATA, f"{kinds[path]} {self.seconds[path]}")
        return kinds

    def _decoded(self, files: list[StreamFile], pool: MediaPool) -> Iterator[tuple[StreamFile, Problem]]:
        checks = {stream: f"decoded {settings.model_dump_json()}" for stream, settings in self._preprocessing.items()}
        jobs = [
            ((stream, path), LoadJob(path, self._preprocessing[stream]))
            for stream, path in files
            if self._known.kind(path, checks[stream]) is None
        ]
        for (stream, path), result in self._load(pool, jobs, "decoding"):
            if result.error is None:
                self._known.add(path, checks[stream], self._preprocessing[stream].kind)
            else:
                yield (stream, path), ("cannot be decoded", _reason(result))

    def _read(self, files: list[StreamFile], pool: MediaPool) -> Iterator[tuple[StreamFile, Problem]]:
        jobs = [
            ((stream, path), LoadJob(path, self._preprocessing[stream]))
            for stream, path in files
            if self._known.kind(path, FEATURES) is None
        ]
        for file, result in self._load(pool, jobs, "features"):
            if result.array is None:
                yield file, ("features cannot be read", _reason(result))
            elif not np.isfinite(result.array).all():
                yield file, ("features not finite", "some of its numbers are infinite or not a number")
            else:
                self._known.add(file[1], FEATURES, FEATURES)

    def _load(self, pool: MediaPool, jobs: list[tuple[Name, LoadJob]], what: str) -> Iterator[tuple[Name, LoadResult]]:
        results = pool.load(job for _, job in jobs)
        for done, ((name, _), result) in enumerate(zip(jobs, results, strict=True), 1):
            yield name, result
            self._tell(what, done, len(jobs))


def _reason(result: LoadResult) -> str:
    return result.error.reason if result.error is not None else "has no metadata"


def _not_a_file(path: str) -> Problem | None:
    """Reason and detail if there is no file or folder at a path that could be opened without waiting; else None."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return "missing file", "does not exist"
    except OSError as error:
        return "unreadable file", error.strerror or str(error)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "unreadable file", "is neither a file nor a folder"
    return None
