"""Annotations as memory-mapped tables: parsed once, then shared by all processes without a Python object per sample.

Legend: n samples of a table, m of one file.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vidtune.data.conversations import Record, check_times, read_records
from vidtune.data.media_files import MediaFiles
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Sample, Times, Turn
from vidtune.errors import UserError

FORMAT_VERSION = 2
"""Of parsed tables. Another one has files parsed anew, but leaves samples and their order in training as they are."""
FINGERPRINT_VERSION = 1
COLUMNS = ("offsets", "word_lengths", "has_media", "by_id")


class DataSource(Protocol):
    """An annotation file, the folder its media paths are relative to, and a folder of stored features per stream; a
    recipe's data source is one.
    """

    @property
    def annotations(self) -> str | Path: ...

    @property
    def media(self) -> str | Path | None: ...

    @property
    def features(self) -> Mapping[str, str | Path]: ...


@dataclass(frozen=True)
class AnnotationFile:
    """The table of one annotation file, open.

    Pickled, it takes its place on disk along, not the samples.

    Args:
        name: what its sample ids begin with; the file's stem, made unique among the files of a table.
        path, media, features: the source; ``media_files`` finds what the samples need in its folders.
        content_hash: sha256 of the annotation file.
        folder: where the parsed table lies.
        blob: JSON of all records, memory-mapped bytes.
        offsets: (m + 1,) int64, where each record begins in `blob`, and its end.
        word_lengths: (m,) int32, see `Record.word_length`.
        has_media: (m,) bool.
        by_id: (m,) bool, whether the medium is named by the sample's id.
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

    @classmethod
    def parsed(
        cls,
        name: str,
        path: Path,
        media: Path | None,
        content_hash: str,
        folder: Path,
        features: tuple[tuple[str, Path], ...] = (),
    ) -> "AnnotationFile":
        """Open the parsed table in ``folder``."""
        blob_path = folder / "records.bin"
        blob = np.memmap(blob_path, np.uint8, "r") if blob_path.stat().st_size else np.empty(0, np.uint8)
        columns = (np.load(folder / f"{column}.npy", mmap_mode="r") for column in COLUMNS)
        media_files = MediaFiles(media, dict(features))
        return cls(name, path, media, content_hash, folder, features, media_files, blob, *columns)

    def __reduce__(self) -> tuple[Any, ...]:
        place = (self.name, self.path, self.media, self.content_hash, self.folder, self.features)
        return AnnotationFile.parsed, place

    def __len__(self) -> int:
        return len(self.word_lengths)

    def sample(self, index: int) -> Sample:
        """Raises SampleProblem for media that cannot be found or do not stay below their folder, and wrong times."""
        record = self.record(index)
        sample_id = f"{self.name}:{index}"
        try:
            media = self.media_files.refs(record)
            if record.times is not None:
                check_times(record.times)
        except SampleProblem as problem:
            raise problem.of(sample_id) from None
        return Sample(sample_id, record.turns, media, record.times)

    def record(self, index: int) -> Record:
        begin, end = self.offsets[index : index + 2]
        identity, turns, media, *times = json.loads(self.blob[begin:end].tobytes())
        return Record(
            identity,
            tuple(Turn(*turn) for turn in turns),
            tuple((stream, path) for stream, path in media),
            Times(times[0], tuple((mark, second) for mark, second in times[1])) if times else None,
        )

    def listing(self) -> str:
        """Hash of the listings of folders that decide which files the samples have; empty where none does."""
        return self.media_files.fingerprint(bool(self.by_id.any()))


class AnnotationTable:
    """The samples of several annotation files, one after the other.

    The id of a sample is ``<file stem>:<its index in the file>``: unique, unlike the ids in published files.

    Args:
        files: open files, in order.
        selection: (n,) int64, which of all their samples the table holds; None means all.
    """

    def __init__(self, files: Sequence[AnnotationFile], selection: np.ndarray | None = None) -> None:
        self.files = list(files)
        self._begins = np.concatenate(([0], np.cumsum([len(file) for file in files]))).astype(np.int64)
        self._selection = np.arange(self._begins[-1]) if selection is None else selection
        self.word_lengths = np.concatenate([file.word_lengths for file in files])[self._selection]
        self.has_media = np.concatenate([file.has_media for file in files])[self._selection]

    @classmethod
    def open(cls, sources: Sequence[DataSource], cache: Path) -> "AnnotationTable":
        """Open annotation files, parsing those that were not parsed before.

        Args:
            cache: folder of parsed tables, one for each content; may be deleted at any time.
        Raises:
            UserError: no source, a missing file, broken JSON, an item of the wrong form; says where.
        """
        if not sources:
            raise UserError("data: no annotation file is named")
        names: list[str] = []
        files = []
        for source in sources:
            path = Path(source.annotations)
            names.append(_unique_name(path.stem, names))
            files.append(_open_file(names[-1], path, source, cache))
        return cls(files)

    def __len__(self) -> int:
        return len(self._selection)

    def __getitem__(self, index: int) -> Sample:
        """Raises SampleProblem as `AnnotationFile.sample`."""
        file, number = self._place(index)
        return file.sample(number)

    def id(self, index: int) -> str:
        """Id of a sample, without reading it."""
        file, number = self._place(index)
        return f"{file.name}:{number}"

    def original_id(self, index: int) -> str:
        """The id the annotation file gives; empty if none, and often not unique."""
        file, number = self._place(index)
        return file.record(number).original_id

    def features(self, index: int) -> dict[str, Path]:
        """Stream -> folder of stored features, of the source a sample comes from."""
        return dict(self._place(index)[0].features)

    def source(self, index: int) -> Path:
        """The annotation file a sample comes from."""
        return self._place(index)[0].path

    @property
    def selection(self) -> np.ndarray:
        """Which samples of all the files, one after the other, the table holds. Shape: (n,) int64, ascending"""
        return self._selection

    @property
    def counts(self) -> list[int]:
        """How many samples of each file the table holds."""
        return np.diff(np.searchsorted(self._selection, self._begins)).tolist()

    @property
    def fingerprint(self) -> str:
        """Hash of the samples and their order, wherever the files lie."""
        digest = hashlib.sha256(f"{FINGERPRINT_VERSION}".encode())
        for file in self.files:
            digest.update(file.content_hash.encode())
        digest.update(self._selection.astype("<i8").tobytes())
        return digest.hexdigest()

    def without(self, ids: Collection[str]) -> "AnnotationTable":
        """The table without some samples; ids it does not hold are ignored."""
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


def _open_file(name: str, path: Path, source: DataSource, cache: Path) -> AnnotationFile:
    try:
        with path.open("rb") as file:
            content_hash = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: annotations cannot be read: {error.strerror}") from None
    folder = cache / f"{content_hash[:32]}-v{FORMAT_VERSION}"
    if not folder.is_dir():
        _build(path, path.read_bytes(), folder)
    media = None if source.media is None else Path(source.media)
    features = tuple((stream, Path(place)) for stream, place in source.features.items())
    return AnnotationFile.parsed(name, path, media, content_hash, folder, features)


def _build(path: Path, content: bytes, folder: Path) -> None:
    """Parse a file into `folder`, which appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        offsets, word_lengths, has_media, by_id = [0], [], [], []
        with (building / "records.bin").open("wb") as blob:
            for record in read_records(path, content):
                turns = [(turn.role, turn.text) for turn in record.turns]
                times = (record.times.duration, record.times.marks) if record.times else ()
                # ASCII with escapes, because JSON strings may hold lone surrogates, which UTF-8 cannot.
                blob.write(json.dumps([record.original_id, turns, record.media, *times]).encode("ascii"))
                offsets.append(blob.tell())
                word_lengths.append(record.word_length)
                has_media.append(bool(record.media))
                by_id.append(any(path is None for _, path in record.media))
        np.save(building / "offsets.npy", np.array(offsets, np.int64))
        np.save(building / "word_lengths.npy", np.array(word_lengths, np.int32))
        np.save(building / "has_media.npy", np.array(has_media, bool))
        np.save(building / "by_id.npy", np.array(by_id, bool))
        try:
            os.rename(building, folder)  # noqa: PTH104
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
