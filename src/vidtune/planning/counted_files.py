"""The media and feature files that the lengths of samples were counted from, with the versions that they had then.

A length is known as long as its files are the same. Lengths of files that have changed are counted anew.

Legend: f files, k pairs of a sample and a file of it.
"""

import json
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np

from vidtune.data.sample import Sample
from vidtune.foreign.documents import parse_json
from vidtune.machine.files import atomic_file
from vidtune.media.feature_file import is_feature_file
from vidtune.media.file_version import FileVersion, version_of
from vidtune.spelling import damaged

AT_ONCE = 16
COUNTED_AGAIN = "its samples are counted again"
"""Number of files that are looked at together; on a network disk each takes a round trip."""


@dataclass(frozen=True, eq=False)
class CountedFiles:
    """Files of samples.

    Args:
        paths: f absolute paths, each once.
        versions: (f, 3) int64, versions of the files before they were read; see `file_version`.
        samples, files: (k,) int64, sample ``samples[i]`` was counted from file ``files[i]``.
    """

    paths: list[str]
    versions: np.ndarray
    samples: np.ndarray
    files: np.ndarray

    @classmethod
    def of(cls, seen: dict[str, FileVersion], pairs: Sequence[tuple[int, str]]) -> Self:
        """Files from their versions by path, and pairs of a sample and the path of a file of it."""
        places = {path: place for place, path in enumerate(seen)}
        rows = np.array([(sample, places[path]) for sample, path in pairs], np.int64).reshape(-1, 2)
        versions = np.array(list(seen.values()), np.int64).reshape(-1, 3)
        return cls(list(seen), versions, rows[:, 0], rows[:, 1])

    @classmethod
    def joined(cls, parts: Iterable["CountedFiles"]) -> Self:
        """All files of several parts; of two versions of a file, the one that came first."""
        seen: dict[str, FileVersion] = {}
        pairs: list[tuple[int, str]] = []
        for part in parts:
            for path, version in zip(part.paths, part.versions.tolist(), strict=True):
                seen.setdefault(path, tuple(version))
            pairs += zip(part.samples.tolist(), (part.paths[file] for file in part.files.tolist()), strict=True)
        return cls.of(seen, pairs)

    def with_anew(self, samples: np.ndarray, anew: "CountedFiles") -> "CountedFiles":
        """The files after some samples were counted anew, from the files ``anew``."""
        kept = ~np.isin(self.samples, samples)
        rest = CountedFiles(self.paths, self.versions, self.samples[kept], self.files[kept])
        used = np.unique(rest.files)
        versions = {self.paths[file]: tuple(self.versions[file].tolist()) for file in used.tolist()}
        pairs = zip(rest.samples.tolist(), (self.paths[file] for file in rest.files.tolist()), strict=True)
        return CountedFiles.joined([CountedFiles.of(versions, list(pairs)), anew])

    def changed_samples(self) -> np.ndarray:
        """Returns the samples of which a file has another version now. Shape: (number,) int64, ascending"""
        with ThreadPoolExecutor(AT_ONCE) as crew:
            found = crew.map(version_of, self.paths, chunksize=256) if self.paths else ()
            now = np.array(list(found), np.int64).reshape(-1, 3)
        changed = (now != self.versions).any(axis=1)
        return np.unique(self.samples[changed[self.files]])

    def save(self, path: Path, **arrays: np.ndarray) -> None:
        """Write the files, and further arrays, to one ``.npz`` file that is complete or not there."""
        names = np.frombuffer(json.dumps(self.paths).encode(), np.uint8)
        own = {"paths": names, "versions": self.versions, "samples": self.samples, "files": self.files}
        everything: dict[str, Any] = {**own, **arrays}
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **everything)

    @classmethod
    def load(cls, path: Path, name: str) -> tuple[Self, np.ndarray]:
        """Returns the files, and the further array of this name, from a file that `save` wrote.

        Raises:
            Exception: of any type, for a damaged file.
        """
        with np.load(path, allow_pickle=False) as saved:
            paths = parse_json(saved["paths"].tobytes())
            found, more = cls(paths, saved["versions"], saved["samples"], saved["files"]), saved[name]
        pairs = len(found.samples)
        columns = (found.versions, (len(paths), 3)), (found.samples, (pairs,)), (found.files, (pairs,))
        if any(column.shape != shape or column.dtype != np.int64 for column, shape in columns):
            raise ValueError("its columns do not fit")
        if pairs and not (found.samples.min() >= 0 and 0 <= found.files.min() <= found.files.max() < len(paths)):
            raise ValueError("it names files that are not in it")
        return found, more


def files_of(sample: Sample, looks_at_media: bool) -> list[str]:
    """Returns the files of a sample whose metadata decide its tokens.

    Args:
        looks_at_media: whether those of media files do; those of feature files, and of files of which a part is read,
            always do.
    """
    named = chain.from_iterable(
        ((path, ref.part is not None) for path in (ref.path, *(file for _, file in ref.features)))
        for ref in sample.media
    )
    return [path for path, is_part in named if path and (looks_at_media or is_part or is_feature_file(path))]


def stored_table(
    path: Path, listed: Path, shape: tuple[int, int]
) -> tuple[np.ndarray, CountedFiles, np.ndarray] | None:
    """Returns a table of lengths of this shape, and the files and their folder that are listed beside it.

    None: it is not there, or damaged, which is said.
    """
    if not (path.is_file() and listed.is_file()):
        return None
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
        if table.shape != shape or table.dtype != np.int32:
            raise ValueError(f"{table.dtype} {table.shape} where int32 {shape} is expected")
        files, media = CountedFiles.load(listed, "media")
        if len(files.samples) and files.samples.max() >= shape[1]:
            raise ValueError("it names samples that are not there")
    except Exception as error:  # of numpy, zipfile and JSON, for a damaged file
        warnings.warn(damaged(path, error, COUNTED_AGAIN), stacklevel=2)
        return None
    return table, files, media


def stored_chunk(path: Path, shape: tuple[int, int]) -> tuple[CountedFiles, np.ndarray] | None:
    """Returns the files and the counts of a chunk; None: it is not there, or damaged, which is said."""
    if not path.is_file():
        return None
    try:
        files, counts = CountedFiles.load(path, "counts")
        if counts.shape != shape or counts.dtype != np.int32:
            raise ValueError(f"{counts.dtype} {counts.shape} where int32 {shape} is expected")
    except Exception as error:  # see `stored_table`
        warnings.warn(damaged(path, error, COUNTED_AGAIN), stacklevel=2)
        return None
    return files, counts
