"""Checks media files and feature files: whether they exist, are of the right kind, and can be read to the end."""

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from vidtune.data.checked_files import CheckedFiles
from vidtune.machine.progress import ProgressCallback
from vidtune.media.feature_file import NOT_FINITE, is_feature_file
from vidtune.media.pool import LoadJob, LoadResult, MediaPool
from vidtune.media.preprocessing.kinds import Preprocessing

StreamFile = tuple[str, str]
"""A stream, and the path of a file that it reads."""
Problem = tuple[str, str]
"""A short reason, by which reports count, and a detail."""
Name = TypeVar("Name")

METADATA = "kind and length"
FEATURES = "features"
PICTURES, CLIPS, SOUND = ("image",), ("video", "frames"), ("video", "audio")
KINDS = {
    "image": PICTURES,
    "any_pixel_image": PICTURES,
    "video": CLIPS,
    "any_pixel_video": CLIPS,
    "regions": (*PICTURES, *CLIPS),
    "fbank": SOUND,
    "log_mel": SOUND,
}
"""Kinds of files that each kind of preprocessing reads; one of another package may read any."""
ANY = (*PICTURES, *CLIPS, "audio")


class MediaCheck:
    """A check of files.

    Args:
        files: each file with a stream that reads it.
        preprocessing: preprocessing settings of every stream.
        known: files that passed an earlier check.
        progress: progress callback; its tasks are "files", "decoding" and "features".

    Attributes:
        seconds: path -> duration of the file in seconds; 0: it has no duration. Filled by `problems`.
    """

    def __init__(
        self,
        files: list[StreamFile],
        preprocessing: Mapping[str, Preprocessing],
        known: CheckedFiles,
        progress: ProgressCallback,
    ) -> None:
        self._files, self._preprocessing, self._known, self._progress = files, preprocessing, known, progress
        self.seconds: dict[str, float] = {}

    def problems(self, pool: MediaPool, decode: bool) -> Iterator[tuple[StreamFile, Problem]]:
        """Yields every file that cannot be used, with the problem; a file with several problems comes several times.

        Args:
            decode: also decode and preprocess every file, and read all features. The headers of feature files are not
                checked here: they were read before, when the tokens of the samples were counted.
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
            elif kind in KINDS.get(self._preprocessing[stream].kind, ANY):
                good.append((stream, path))
            else:
                detail = f"is of the kind '{kind}' but stands in the stream '{stream}'"
                yield (stream, path), ("wrong kind of file", detail)
        if decode:
            yield from self._decoded(good, pool)
            yield from self._read(features, pool)

    def _kinds(self, files: list[StreamFile], pool: MediaPool) -> dict[str, str | Problem]:
        """Path -> kind of the file, or its problem."""
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
            # The duration of a file that holds only sound is that of its sound.
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
            if result.array is not None:
                self._known.add(file[1], FEATURES, FEATURES)
            elif (reason := _reason(result)) == NOT_FINITE:
                yield file, ("features not finite", reason)
            else:
                yield file, ("features cannot be read", reason)

    def _load(self, pool: MediaPool, jobs: list[tuple[Name, LoadJob]], task: str) -> Iterator[tuple[Name, LoadResult]]:
        results = pool.load(job for _, job in jobs)
        for done, ((name, _), result) in enumerate(zip(jobs, results, strict=True), 1):
            yield name, result
            self._progress(task, done, len(jobs))


def _reason(result: LoadResult) -> str:
    return result.error.reason if result.error is not None else "has no metadata"


def _not_a_file(path: str) -> Problem | None:
    """Returns the problem of a path that is no file or folder, or could block when opened; None: no problem."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return "missing file", "does not exist"
    except OSError as error:
        return "unreadable file", error.strerror or str(error)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "unreadable file", "is neither a file nor a folder"
    return None
