"""Annotations as memory-mapped tables: parsed once, shared by all processes, without a Python object per sample.

Legend: n samples of a table, m of one file.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vidtune.data.annotation import Annotation, as_tuples, check_times
from vidtune.data.media_files import MediaFiles
from vidtune.data.parsing import BLOB, COLUMNS, Parsed, parsed_folder, read_about
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Sample, Times, Turn
from vidtune.data.sources import DEFAULT_FORMAT, DataSource, of_each_file
from vidtune.errors import UserError
from vidtune.media.file_version import FileVersion, version_of
from vidtune.recipe.sampling import ALL, RANDOM, Sampling
from vidtune.spelling import damaged

FINGERPRINT_VERSION = 1


@dataclass(frozen=True)
class AnnotationFile:
    """The open table of one annotation file. A pickled one contains its path on disk, not the samples.

    Args:
        name: first part of its sample ids: the stem of the file, made unique among the files of a table.
        path: path of the annotation file.
        media: folder of its media; None: there is none.
        content_hash: hash of what the file holds, see `Parsed`; sha256 of the file in a run that knows it by that.
        folder: folder of the parsed table.
        features: (stream, folder of stored features).
        media_files: finds the media files and feature files of the samples.
        blob: JSON of all annotations, memory-mapped bytes.
        offsets: (m + 1,) int64, position of each annotation in `blob`, and the end of the last.
        word_lengths: (m,) int32, see `Annotation.word_length`.
        has_media: (m,) bool, whether the annotation has media.
        by_id: (m,) bool, whether the medium is named by the id of the annotation.
        frame_rate: frames per second that its videos are taken to have; None: those of the files.
        about: what is known of the file as a whole.
    """

    name: str
    path: Path
    media: Path | None
    content_hash: str
    folder: Path
    features: tuple[tuple[str, Path], ...]
    media_files: MediaFiles
    blob: np.ndarray
    offsets: np.ndarray
    word_lengths: np.ndarray
    has_media: np.ndarray
    by_id: np.ndarray
    frame_rate: float | None = None
    about: Parsed = field(default_factory=Parsed)

    @classmethod
    def parsed(
        cls,
        name: str,
        path: Path,
        media: Path | None,
        content_hash: str,
        folder: Path,
        features: tuple[tuple[str, Path], ...] = (),
        frame_rate: float | None = None,
    ) -> "AnnotationFile":
        """Open the parsed table in ``folder``."""
        blob_path = folder / BLOB
        blob = np.memmap(blob_path, np.uint8, "r") if blob_path.stat().st_size else np.empty(0, np.uint8)
        columns = {column: np.load(folder / f"{column}.npy", mmap_mode="r") for column in COLUMNS}
        media_files = MediaFiles(media, dict(features), frame_rate)
        place = (name, path, media, content_hash, folder, features)
        return cls(*place, media_files, blob, **columns, frame_rate=frame_rate, about=read_about(folder))

    def __reduce__(self) -> tuple[Any, ...]:
        place = (self.name, self.path, self.media, self.content_hash, self.folder, self.features, self.frame_rate)
        return AnnotationFile.parsed, place

    def __len__(self) -> int:
        return len(self.word_lengths)

    def sample(self, index: int) -> Sample:
        """Returns a sample; raises SampleProblem for one that its reader found unusable, for media that are missing or
        outside their folder, or wrong times."""
        annotation = self.annotation(index)
        sample_id = f"{self.name}:{index}"
        try:
            if annotation.problem is not None:
                raise SampleProblem(*annotation.problem)
            media = self.media_files.refs(annotation)
            if annotation.times is not None:
                check_times(annotation.times)
        except SampleProblem as problem:
            raise problem.of(sample_id) from None
        return Sample(sample_id, annotation.turns, media, annotation.times)

    def media_versions(self, index: int) -> dict[str, FileVersion]:
        """Path -> version now of the media and feature files of a sample; empty while one without a path is missing."""
        try:
            refs = self.media_files.refs(self.annotation(index))
        except SampleProblem:
            return {}
        paths = [path for ref in refs for path in (ref.path, *(file for _, file in ref.features)) if path]
        return {path: version_of(path) for path in paths}

    def annotation(self, index: int) -> Annotation:
        """Returns the annotation of a sample, as the file has it."""
        begin, end = self.offsets[index : index + 2]
        try:
            identity, turns, media, *rest = json.loads(self.blob[begin:end].tobytes())
        except (ValueError, TypeError) as error:
            raise UserError(damaged(self.folder, error, "delete it: its annotations are parsed again")) from None
        duration, marks, extras, frames, problem, parts = [*rest, *[None] * 6][:6]
        return Annotation(
            identity,
            tuple(Turn(*turn) for turn in turns),
            tuple((stream, path) for stream, path in media),
            None if duration is None else Times(duration, tuple((mark, second) for mark, second in marks)),
            as_tuples(extras or ()),
            as_tuples(frames or ()),
            problem and (problem[0], problem[1]),
            parts=tuple((start, end, fps) for start, end, fps in parts or ()),
        )

    def is_known_by(self, content_hash: object) -> bool:
        """Whether a hash is that of what the file holds, or that of its bytes, by which earlier versions knew it."""
        return content_hash in (self.content_hash, self.about.content, self.about.file)

    def listing(self) -> str:
        """Returns a hash of the folder listings that decide which files the samples use; empty: no listing matters."""
        return self.media_files.fingerprint(bool(self.by_id.any()))


class AnnotationTable:
    """The samples of several annotation files, one after the other.

    The id of a sample is ``<file stem>:<its index in the file>``: unique, unlike the ids in published files.

    Args:
        files: open files, in order.
        selection: (n,) int64, indices of the samples in the table, counted over all files; None: all.
    """

    def __init__(self, files: Sequence[AnnotationFile], selection: np.ndarray | None = None) -> None:
        self.files = list(files)
        self._begins = np.concatenate(([0], np.cumsum([len(file) for file in files]))).astype(np.int64)
        self._selection = np.arange(self._begins[-1]) if selection is None else selection
        self.word_lengths = np.concatenate([file.word_lengths for file in files])[self._selection]
        self.has_media = np.concatenate([file.has_media for file in files])[self._selection]

    @classmethod
    def open(cls, sources: Sequence[DataSource], cache: Path, known: Collection[str] = ()) -> "AnnotationTable":
        """Open annotation files, and parse those that were not parsed before.

        Args:
            sources: data sources, in order; see `of_each_file`. Of each file, the samples that its source wants.
            cache: folder of parsed tables, one for each content; may be deleted at any time.
            known: hashes by which a run that began earlier knows its files. A file whose bytes have one of them keeps
                it, so that the order of the samples stays.

        Raises:
            UserError: no source, a missing file, a file that is no list of records; says where.
        """
        if not sources:
            raise UserError("data: no annotation file is named")
        names: list[str] = []
        files = []
        chosen = []
        for source in of_each_file(sources):
            path = Path(source.annotations)
            names.append(_unique_name(path.stem, names))
            files.append(_open_file(names[-1], path, source, cache, known))
            chosen.append(_chosen(files[-1], source.sampling))
        begins = np.cumsum([0, *(len(file) for file in files[:-1])])
        return cls(files, np.concatenate([begin + part for begin, part in zip(begins, chosen, strict=True)]))

    def __len__(self) -> int:
        return len(self._selection)

    def __getitem__(self, index: int) -> Sample:
        """Returns a sample; raises SampleProblem, see `AnnotationFile.sample`."""
        file, number = self._place(index)
        return file.sample(number)

    def id(self, index: int) -> str:
        """Returns the id of a sample without reading the sample."""
        file, number = self._place(index)
        return f"{file.name}:{number}"

    def media_versions(self, index: int) -> dict[str, FileVersion]:
        """Returns the versions of the files of a sample, see `AnnotationFile.media_versions`."""
        file, number = self._place(index)
        return file.media_versions(number)

    def original_id(self, index: int) -> str:
        """Returns the id in the annotation file; empty if missing, and often not unique."""
        return self.annotation(index).original_id

    def annotation(self, index: int) -> Annotation:
        """Returns the annotation of a sample, whether or not its media are there."""
        file, number = self._place(index)
        return file.annotation(number)

    def features(self, index: int) -> dict[str, Path]:
        """Returns stream -> folder of stored features of the sample's source."""
        return dict(self._place(index)[0].features)

    def source(self, index: int) -> Path:
        """Returns the path of the sample's annotation file."""
        return self._place(index)[0].path

    @property
    def contents(self) -> dict[str, str]:
        """Name of each file, as in sample ids -> hash of its content."""
        return {file.name: file.content_hash for file in self.files}

    @property
    def selection(self) -> np.ndarray:
        """Indices of the samples in the table, counted over all files. Shape: (n,) int64, ascending"""
        return self._selection

    @property
    def selections(self) -> list[np.ndarray]:
        """Indices of the samples of each file that are in the table. Shapes: (count of the file,) int64, ascending"""
        bounds = np.searchsorted(self._selection, self._begins)
        spans = zip(self._begins, bounds, bounds[1:], strict=False)
        return [self._selection[start:end] - begin for begin, start, end in spans]

    @property
    def counts(self) -> list[int]:
        """Number of samples of each file in the table."""
        return np.diff(np.searchsorted(self._selection, self._begins)).tolist()

    @property
    def fingerprint(self) -> str:
        """Hash of the samples and their order; does not depend on the paths of the files."""
        digest = hashlib.sha256(f"{FINGERPRINT_VERSION}".encode())
        for file in self.files:
            digest.update(file.content_hash.encode())
        digest.update(self._selection.astype("<i8").tobytes())
        return digest.hexdigest()

    def notes(self) -> list[str]:
        """Returns what to tell a user of the files: records of several forms, keys that are not read."""
        return [f"{file.path}: {note}" for file in self.files for note in file.about.notes()]

    def without(self, ids: Collection[str]) -> "AnnotationTable":
        """Returns the table without some samples; ids that are not in the table are ignored."""
        begins = {file.name: int(begin) for file, begin in zip(self.files, self._begins[:-1], strict=True)}
        excluded = []
        for sample_id in ids:
            name, _, number = sample_id.rpartition(":")
            if name in begins and number.isdigit():
                excluded.append(begins[name] + int(number))
        return AnnotationTable(self.files, self._selection[~np.isin(self._selection, excluded)])

    def _place(self, index: int) -> tuple[AnnotationFile, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a table of {len(self)}")
        number = int(self._selection[index])
        file = int(np.searchsorted(self._begins, number, side="right")) - 1
        return self.files[file], number - int(self._begins[file])


def _unique_name(stem: str, taken: Collection[str]) -> str:
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}~{number}", number + 1
    return name


def _chosen(file: AnnotationFile, sampling: str | None) -> np.ndarray:
    """Returns the indices of the samples that a source uses of its file. Shape: (chosen,) int64, ascending

    A random part follows from the content of the file: the same one in every epoch and on every machine.
    """
    rule = Sampling.parse(sampling or ALL)
    if rule.word != RANDOM:
        return np.array(rule.block(len(file)), np.int64)
    ranks = np.random.Philox(key=int(file.content_hash[:32], 16)).random_raw(len(file))
    return np.sort(np.argsort(ranks, kind="stable")[: rule.size(len(file))]).astype(np.int64)


def _open_file(name: str, path: Path, source: DataSource, cache: Path, known: Collection[str]) -> AnnotationFile:
    media = None if source.media is None else Path(source.media)
    folder = parsed_folder(path, source.format or DEFAULT_FORMAT, media, cache)
    about = read_about(folder)
    content = about.file if about.file in known and about.content not in known else about.content
    features = tuple((stream, Path(place)) for stream, place in source.features.items())
    return AnnotationFile.parsed(name, path, media, content, folder, features, source.frame_rate)
