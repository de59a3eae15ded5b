"""Checks media files and feature files: whether they exist, are of the right kind, and can be read to the end."""

import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from vidtune.data.checking.checked_files import CheckedFiles
from vidtune.data.sample import MediaRef
from vidtune.errors import UnreadMediaError
from vidtune.machine.progress import ProgressCallback
from vidtune.media.feature_file import NOT_FINITE, is_feature_file
from vidtune.media.pool import LoadJob, LoadResult, MediaPool
from vidtune.media.preprocessing.kinds import Preprocessing


class StreamFile(NamedTuple):
    """A file that a stream reads.

    Args:
        item: hash of the numbers and frames of the medium, if its preprocessing reads them, and of what of the file is
            read; empty: nothing but the file matters.
    """

    stream: str
    path: str
    item: str = ""


Problem = tuple[str, str]
"""A short reason, by which reports count, and a detail."""
Name = TypeVar("Name")

NOT_READ = "could not be read then"
"""Reason where not the file, but the machine may be at fault: training tries such a file again."""
METADATA = "kind, length, frames and size"
FEATURES = "features"
PICTURES, CLIPS, SOUND = ("image",), ("video", "frames"), ("video", "audio")
KINDS = {
    "image": PICTURES,
    "any_pixel_image": PICTURES,
    "video": CLIPS,
    "any_pixel_video": CLIPS,
    "image_tiles": PICTURES,
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
        ref_of: function that returns the reference to a file, with its numbers and frames.
        known: files that passed an earlier check.
        progress: progress callback; its tasks are "files", "decoding" and "features".

    Attributes:
        seconds: path -> duration of the file in seconds; 0: it has no duration. Filled by `problems`.
        shapes: path -> number of frames, width and height in pixels (of a folder those of its first frame). Filled by
            `problems`.
    """

    def __init__(
        self,
        files: list[StreamFile],
        preprocessing: Mapping[str, Preprocessing],
        ref_of: Callable[[StreamFile], MediaRef],
        known: CheckedFiles,
        progress: ProgressCallback,
    ) -> None:
        self._files, self._preprocessing, self._known, self._progress = files, preprocessing, known, progress
        self._ref_of = ref_of
        self.seconds: dict[str, float] = {}
        self.shapes: dict[str, tuple[int, int, int]] = {}

    def problems(self, pool: MediaPool, decode: bool) -> Iterator[tuple[StreamFile, Problem]]:
        """Yields every file that cannot be used, with the problem; a file with several problems comes several times.

        Args:
            decode: also decode and preprocess every file, and read all features. The headers of feature files are not
                checked here: they were read before, when the tokens of the samples were counted.
        """
        media: list[StreamFile] = []
        features: list[StreamFile] = []
        for file in self._files:
            if problem := _not_a_file(file.path):
                yield file, problem
            elif file.stream in self._preprocessing:
                (features if is_feature_file(file.path) else media).append(file)
        good: list[StreamFile] = []
        kinds = self._kinds(media, pool)
        for file in media:
            kind = kinds[file.path]
            if not isinstance(kind, str):
                yield file, kind
            elif kind in KINDS.get(self._preprocessing[file.stream].kind, ANY):
                good.append(file)
            else:
                detail = f"is of the kind '{kind}' but stands in the stream '{file.stream}'"
                yield file, ("wrong kind of file", detail)
        if decode:
            yield from self._decoded(good, pool)
            yield from self._read(features, pool)

    def _kinds(self, files: list[StreamFile], pool: MediaPool) -> dict[str, str | Problem]:
        """Path -> kind of the file, or its problem."""
        kinds: dict[str, str | Problem] = {}
        unknown: list[str] = []
        for path in dict.fromkeys(file.path for file in files):
            if earlier := self._known.kind(path, METADATA):
                kinds[path], seconds, frames, width, height = earlier.split()
                self.seconds[path], self.shapes[path] = float(seconds), (int(frames), int(width), int(height))
            else:
                unknown.append(path)
        for path, result in self._load(pool, unknown, lambda path: LoadJob(path, None), "files"):
            if result.info is None:
                kinds[path] = _problem("unreadable file", result)
                continue
            kinds[path] = result.info.kind
            # The duration of a file that holds only sound is that of its sound.
            self.seconds[path] = round(result.info.duration or result.info.audio_seconds, 2)
            self.shapes[path] = result.info.num_frames, result.info.width, result.info.height
            facts = (kinds[path], self.seconds[path], *self.shapes[path])
            self._known.add(path, METADATA, " ".join(map(str, facts)))
        return kinds

    def _decoded(self, files: list[StreamFile], pool: MediaPool) -> Iterator[tuple[StreamFile, Problem]]:
        checks = {stream: f"decoded {settings.model_dump_json()}" for stream, settings in self._preprocessing.items()}
        names = [(file, f"{checks[file.stream]} {file.item}".rstrip()) for file in files]
        unknown = [(file, check) for file, check in names if self._known.kind(file.path, check) is None]
        for (file, check), result in self._load(pool, unknown, lambda name: self._job(name[0]), "decoding"):
            if result.error is None:
                self._known.add(file.path, check, self._preprocessing[file.stream].kind)
            else:
                yield file, _problem("cannot be decoded", result)

    def _job(self, file: StreamFile) -> LoadJob:
        ref = self._ref_of(file) if file.item else MediaRef(*file[:2])
        return LoadJob(file.path, self._preprocessing[file.stream], extras=ref.extras, frames=ref.frames, part=ref.part)

    def _read(self, files: list[StreamFile], pool: MediaPool) -> Iterator[tuple[StreamFile, Problem]]:
        unknown = [file for file in files if self._known.kind(file.path, FEATURES) is None]
        for file, result in self._load(pool, unknown, self._job, "features"):
            if result.array is not None:
                self._known.add(file.path, FEATURES, FEATURES)
            elif (reason := _reason(result)) == NOT_FINITE:
                yield file, ("features not finite", reason)
            else:
                yield file, _problem("features cannot be read", result)

    def _load(
        self, pool: MediaPool, names: list[Name], job: Callable[[Name], LoadJob], task: str
    ) -> Iterator[tuple[Name, LoadResult]]:
        """Yields the result of a job for each name; a job is made when it is needed."""
        for done, (name, result) in enumerate(zip(names, pool.load(map(job, names)), strict=True), 1):
            yield name, result
            self._progress(task, done, len(names))


def _problem(reason: str, result: LoadResult) -> Problem:
    return (NOT_READ if isinstance(result.error, UnreadMediaError) else reason), _reason(result)


def _reason(result: LoadResult) -> str:
    return result.error.seen_from(result.job.path) if result.error is not None else "has no metadata"


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
