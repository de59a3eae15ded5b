"""Checks every sample and every media file before training, so that training does not fail on them after hours."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vidtune.data.checking.checked_files import CheckedFiles
from vidtune.data.checking.findings import DataReport, Finding
from vidtune.data.checking.media_check import CLIPS, KINDS, NOT_READ, MediaCheck, StreamFile
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef, Sample
from vidtune.data.tables import AnnotationTable
from vidtune.errors import MediaError, UnreadMediaError
from vidtune.machine.progress import ProgressCallback, no_progress
from vidtune.media.clip_times import ClipTimes, Part
from vidtune.media.file_version import FileVersion
from vidtune.media.kept.identity import content_hash
from vidtune.media.pool import MediaPool
from vidtune.media.preprocessing.box_choice import box_problem, frame_problem, outside_problem
from vidtune.media.preprocessing.kinds import Preprocessing, reads_boxes, reads_extras

REPORT_EVERY = 256
LENGTH_SECONDS, LENGTH_SHARE = 2.0, 0.05
"""A file may differ from the duration in its annotation by so many seconds, or by this fraction of the duration."""


class CheckedMedium(Protocol):
    """A medium in an example."""

    @property
    def ref(self) -> MediaRef: ...


class CheckedExample(Protocol):
    """Properties of a tokenised sample that the check reads; the examples of the processor have them."""

    @property
    def media(self) -> Sequence[CheckedMedium]: ...

    @property
    def masked(self) -> str | None: ...

    @property
    def truncated(self) -> bool: ...


Encode = Callable[[Sample], CheckedExample]
"""Makes the example of a sample, as training does. Raises SampleProblem; also for features that do not fit the tower of
their stream.
"""


@dataclass(frozen=True)
class DataCheck:
    """A check of all samples of a table and all files that they need.

    Args:
        preprocessing: preprocessing settings of every stream.
        checked_files: JSON lines file of the files that passed; a check that was stopped continues where it was.
        companions: stream -> streams that read the same files.
        decode: decode and preprocess every file and read all features; False: read headers and packet tables only.
        workers: number of processes that read files; 0: read in this process.
        timeout: maximum time in seconds for one file.
    """

    preprocessing: Mapping[str, Preprocessing]
    checked_files: Path
    companions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    decode: bool = False
    workers: int = 2
    timeout: float = 60.0

    def run(self, table: AnnotationTable, encode: Encode, progress: ProgressCallback = no_progress) -> DataReport:
        """Check the samples of a table and their files."""
        samples = _SampleCheck(table, encode, self.companions, self.preprocessing)
        samples.check_all(progress)
        with MediaPool(self.workers, self.timeout) as pool, CheckedFiles(self.checked_files) as known:
            files = MediaCheck(list(samples.users), self.preprocessing, samples.ref_of, known, progress)
            for file, (reason, detail) in files.problems(pool, self.decode):
                for index in samples.users[file]:
                    samples.find(index, reason, f"{file.path}: {detail}", reason != NOT_READ, file.path)
        samples.compare_durations(files.seconds)
        samples.compare_boxes(files.shapes)
        samples.compare_clips(files.shapes, files.seconds)
        sources: Counter[str] = Counter()
        for source, count in zip(table.files, table.counts, strict=True):
            sources[str(source.path)] += count
        read = len({file.path for file in samples.users})
        return DataReport(len(table), read, samples.findings(), sources, table.notes())


class _SampleCheck:
    """Checks the samples of a table one by one and collects the findings about them.

    Attributes:
        users: for each file, and the stream that reads it, the indices of the samples that need it.
    """

    def __init__(
        self,
        table: AnnotationTable,
        encode: Encode,
        companions: Mapping[str, Sequence[str]],
        preprocessing: Mapping[str, Preprocessing],
    ) -> None:
        self.users: dict[StreamFile, list[int]] = {}
        self._table, self._encode, self._companions = table, encode, companions
        self._reads_numbers = {name for name, steps in preprocessing.items() if reads_extras(steps)}
        self._with_clips = {name for name, steps in preprocessing.items() if KINDS.get(steps.kind) == CLIPS}
        self._with_boxes = {name for name, steps in preprocessing.items() if reads_boxes(steps)}
        self._findings: dict[int, list[Finding]] = {}
        self._durations: list[tuple[int, str, float]] = []
        self._versions: dict[str, FileVersion] = {}
        self._identity = cache(content_hash)

    def check_all(self, progress: ProgressCallback) -> None:
        for index in range(len(self._table)):
            self._check(index)
            if index % REPORT_EVERY == 0:
                progress("samples", index, len(self._table))
        progress("samples", len(self._table), len(self._table))

    def find(
        self,
        index: int,
        reason: str,
        detail: str,
        excluded: bool = True,
        file: str | None = None,
        cause: str | None = None,
    ) -> None:
        """Add a finding about a sample.

        Args:
            excluded, cause: see `Finding`.
            file: the media file that it is about.
        """
        sample = self._table.id(index)
        content = self._table.contents[sample.rpartition(":")[0]]
        # As they were when the check began, because they may have been mended since.
        now = self._table.media_versions(index).items() if excluded else ()
        files = {path: self._versions.get(path, version) for path, version in now}
        own = self._table.original_id(index)
        contents: dict[str, str | None] = {}
        if file is not None and excluded:
            cause, contents = MediaError.cause, {file: self._identity(file)}
        source = str(self._table.source(index))
        finding = Finding(sample, source, reason, detail, excluded, content, files, own, cause, contents)
        self._findings.setdefault(index, []).append(finding)

    def findings(self) -> list[Finding]:
        """All findings in the order of the samples."""
        return [finding for index in sorted(self._findings) for finding in self._findings[index]]

    def compare_durations(self, seconds: Mapping[str, float]) -> None:
        """Note every sample whose annotated duration is not that of its file.

        Args:
            seconds: path -> duration of the file.
        """
        for index, path, duration in self._durations:
            found = seconds.get(path, 0.0)
            if found and abs(found - duration) > max(LENGTH_SECONDS, LENGTH_SHARE * duration):
                detail = f"{path} lasts {found:g} seconds but the times are of a clip of {duration:g}"
                self.find(index, "clip and file differ in length", detail, excluded=False)

    def ref_of(self, file: StreamFile) -> MediaRef:
        """Returns the reference to a file; read anew, because the boxes of all samples would take too much memory."""
        return next(ref for ref in self._refs(self._table[self.users[file][0]]) if self._file(ref) == file)

    def compare_boxes(self, shapes: Mapping[str, tuple[int, int, int]]) -> None:
        """Note every sample that has a box outside its frame, or in a frame that does not exist.

        Args:
            shapes: path -> number of frames, width and height.
        """
        excluded = {index for index, found in self._findings.items() if any(one.excluded for one in found)}
        asking = {index for file, users in self.users.items() if file.stream in self._with_boxes for index in users}
        listings: dict[str, frozenset[str]] = {}
        for index in sorted(asking - excluded):
            for ref in self._refs(self._table[index]):
                if ref.stream not in self._with_boxes or ref.path not in shapes:
                    continue
                if ref.frames and ref.path not in listings:
                    listings[ref.path] = frozenset(os.listdir(ref.path) if Path(ref.path).is_dir() else ())  # noqa: PTH208
                if absent := [name for name in ref.frames if name not in listings[ref.path]]:
                    self.find(index, "missing frame", f"{ref.path}: there is no frame {absent[0]}")
                    break
                if problem := _problem_of_boxes(ref, *shapes[ref.path]):
                    self.find(index, *problem)
                    break

    def compare_clips(self, shapes: Mapping[str, tuple[int, int, int]], seconds: Mapping[str, float]) -> None:
        """Note every sample with a clip of which one frame alone is shown.

        Args:
            shapes: path -> number of frames, width and height.
            seconds: path -> duration of the file.
        """
        for file, users in list(self.users.items()):
            frames = shapes.get(file.path, (0, 0, 0))[0]
            if file.stream not in self._with_clips or not (frames == 1 or (frames and file.item)):
                continue
            part = self.ref_of(file).part
            if _frames_of(part, frames, seconds.get(file.path, 0.0)) == 1:
                is_cut = part is not None and part.is_cut
                detail = f"{file.path}: {'the part that is asked for' if is_cut else 'the file'} shows 1 frame"
                for index in users:
                    self.find(index, "clip of one frame", detail, excluded=False)

    def _refs(self, sample: Sample) -> Iterator[MediaRef]:
        """All that the streams may read of a sample."""
        for ref in sample.media:
            read = (ref.read_by(stream) for stream in (ref.stream, *self._companions.get(ref.stream, ())))
            yield from (part for part in read if part is not None)

    def _file(self, ref: MediaRef) -> StreamFile:
        asked: tuple[Any, ...] = (ref.extras, ref.frames) if ref.stream in self._reads_numbers else ((), ())
        asked = asked if ref.part is None else (*asked, ref.start, ref.end, ref.fps)
        told = hashlib.sha256(repr(asked).encode()).hexdigest()[:16] if any(asked) else ""
        return StreamFile(ref.stream, ref.path, told)

    def _check(self, index: int) -> None:
        needed: list[MediaRef | None] = []
        for path, version in self._table.media_versions(index).items():
            self._versions.setdefault(path, version)
        try:
            sample = self._table[index]
            needed = [ref.read_by(ref.stream) for ref in sample.media]
            example = self._encode(sample)
            needed = [medium.ref for medium in example.media]
        except SampleProblem as problem:
            was_read = problem.cause != UnreadMediaError.cause
            self.find(index, problem.reason if was_read else NOT_READ, problem.detail, was_read, cause=problem.cause)
            return
        finally:
            for file in dict.fromkeys(self._file(ref) for ref in needed if ref is not None):
                self.users.setdefault(file, []).append(index)
        self._check_media(index, sample)
        if self._table.word_lengths[index] == 0:
            self.find(index, "no words", "no turn has a word in it")
        if example.masked is not None:
            self.find(index, example.masked, "no token of this sample is supervised", excluded=False)
        if example.truncated:
            self.find(index, "longer than the length limit", "cut off on the right", excluded=False)

    def _check_media(self, index: int, sample: Sample) -> None:
        """Note streams without features, and remember durations for `compare_durations`."""
        for ref in sample.media:
            if not ref.path:
                expected = self._table.features(index).keys() & self._companions.get(ref.stream, ())
                for stream in sorted(expected - dict(ref.features).keys()):
                    detail = f"nothing stands for the {stream} of this sample"
                    self.find(index, f"no {stream} features", detail, excluded=False)
            if sample.times is not None and ref.part is None:
                self._durations.append((index, ref.path, sample.times.duration))


def _frames_of(part: Part | None, frames: int, seconds: float) -> int:
    """About how many frames a part of a clip shows; 0: there is no such part."""
    if part is None or not part.is_cut:
        return frames
    rate = part.frame_rate(seconds > 0) or frames / seconds
    try:
        return part.of(ClipTimes.evenly(frames, rate))[1].num_frames
    except ValueError:
        return 0


def _problem_of_boxes(ref: MediaRef, num_frames: int, width: int, height: int) -> tuple[str, str] | None:
    """Reason and detail of the first wrong box of a medium; None: all are right."""
    extras = ref.extra_arrays()
    boxes = extras.get("boxes", np.empty(0))
    for number in extras.get("frames", np.empty(0)).ravel():
        if problem := frame_problem(number, num_frames):
            return "missing frame", f"{ref.path}: {problem}"
    if boxes.ndim != 2:
        return "wrong box", f"{ref.path}: its boxes have shape {boxes.shape}; expected (number, 4)"
    for box in boxes:
        if problem := box_problem(box):
            return "wrong box", f"{ref.path}: a box {problem}"
        if problem := outside_problem(box, width, height):
            return "box outside the frame", f"{ref.path}: a box {problem}"
    return None
