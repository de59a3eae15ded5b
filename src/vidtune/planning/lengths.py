"""Length tables: the number of tokens of every sample, known before a plan is made and before any pixel is decoded.

A table belongs to the content of one annotation file and to everything that determines the tokens of its samples
(:meth:`ExampleMaker.key`). It is counted once, with the processor's own ``example``, chunk by chunk. Every finished
chunk is a file, so that a killed run continues where it stopped. The finished table is one memory-mapped file, and
beside it is a list of the files that it was counted from: samples whose files have changed since, and samples that
could not be counted (their lengths are 0), are counted anew whenever the table is opened.

Legend: n samples of a stage, m of one annotation file, S streams.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Sample
from vidtune.data.tables import AnnotationFile, AnnotationTable
from vidtune.machine.files import atomic_file
from vidtune.machine.parallel_work import work_in_processes
from vidtune.machine.progress import ProgressCallback, no_progress
from vidtune.media.file_version import FileVersion, version_of
from vidtune.planning.counted_files import CountedFiles, files_of, stored_chunk, stored_table
from vidtune.processing.batch import Example
from vidtune.processing.captions import CaptionTokenizer, caption_of
from vidtune.processing.tokenizer import default_beginning

if TYPE_CHECKING:
    from vidtune.processing.processor import VideoLMProcessor

FORMAT_VERSION = 1
FILES = ".npz"
"""Suffix of the list of files beside a table."""
CHUNK = 2048
"""Number of samples in a chunk: about one second of work, which a kill may cost each worker."""
COST_UNIT = 1000
WORTH_PROCESSES = 25_000
"""Number of samples above which starting worker processes saves time."""
LOOKED_AT = 64
"""Samples that could not be counted of which so many tell whether something was mended since."""
PIXEL_SETTINGS = {
    "interpolation",
    "antialias",
    "mean",
    "std",
    "order",
    "blind",
    "pad_to_square",
    "resize",
    "flip_probability",
    "pixels",
}
"""Preprocessing settings that change pixel values, but never the number of tokens."""


@dataclass(frozen=True)
class ExampleMaker:
    """Function that makes an example of a sample, as one stage trains on it.

    Args:
        processor: processor of the stage.
        prompt: name of the prompt format.
        max_length, max_expanded_length: see `VideoLMProcessor.example`.
        aligned: for every stream that is aligned with a teacher, a function that counts the aligned frames of an item
            from its shape and the number of its tokens in the prompt. Its ``repr`` must name everything that it uses.
        captions: function text -> tokens of a text tower, for examples with a caption; None: no text tower reads them.
    """

    processor: "VideoLMProcessor"
    prompt: str
    max_length: int | None
    max_expanded_length: int | None
    aligned: Mapping[str, Callable[[tuple[int, ...], int], int]] = field(default_factory=dict)
    captions: CaptionTokenizer | None = None

    def __call__(self, sample: Sample, seed: int | None = None) -> Example:
        """Returns the example of a sample. Raises SampleProblem for a sample that is not usable."""
        example = self.processor.example(
            sample,
            self.prompt,
            max_length=self.max_length,
            max_expanded_length=self.max_expanded_length,
            seed=seed,
        )
        return example if self.captions is None else replace(example, caption=self.captions(caption_of(sample)))

    def frames(self, example: Example) -> dict[str, int]:
        """Returns the number of aligned frames of each aligned stream: frames whose tokens are all in the example.

        Raises SampleProblem if the metadata of a file cannot be read.
        """
        counts = dict.fromkeys(self.aligned, 0)
        for slot in example.media:
            if slot.stream in counts:
                shape = self.processor.reader.shape_of(slot.ref)
                counts[slot.stream] += self.aligned[slot.stream](shape, slot.num_tokens)
        return counts

    @property
    def measured(self) -> list[str]:
        """Streams whose items may cost more or less than the standard item of their tower."""
        return [name for name, settings in self.processor.streams.items() if settings.is_measured]

    @property
    def num_columns(self) -> int:
        """Number of columns of a table: three counts of tokens, one of items by stream, aligned frames, costs."""
        return 3 + len(self.processor.streams) + len(self.aligned) + len(self.measured)

    def costs(self, example: Example) -> dict[str, int]:
        """Returns the cost of encoding the media of each measured stream, in 1 / COST_UNIT of a standard item."""
        costs = dict.fromkeys(self.measured, 0)
        for slot in example.media:
            if slot.stream in costs and slot.measured is not None:
                costs[slot.stream] += round(COST_UNIT * slot.measured.cost)
        return costs

    def key(self) -> str:
        """Returns a hash of everything besides the annotations that determines the tokens.

        That is: tokenizer, prompt format, length limits; of every stream its placeholder, its token numbers and its
        preprocessing without `PIXEL_SETTINGS`; and the functions that count aligned frames.
        """
        chunks = self.processor.chunk_tokenizer
        parts: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "tokenizer": hashlib.sha256(chunks.backend.to_str().encode()).hexdigest(),
            "legacy": chunks.legacy,
            "bos": chunks.tokenizer.bos_token_id,
            "prompt": repr(self.processor.prompt_format(self.prompt)),
            "limits": [self.max_length, self.max_expanded_length],
            "streams": {
                name: settings.model_dump(mode="json", exclude={"preprocessing": PIXEL_SETTINGS})
                for name, settings in self.processor.streams.items()
            },
        }
        if chunks.beginning != default_beginning(chunks.tokenizer):
            parts["beginning"] = chunks.beginning
        if self.processor.times:
            parts["times"] = self.processor.times
        if self.processor.layouts:
            parts["layouts"] = repr(sorted(self.processor.layouts.items()))
        if self.processor.switched_off:
            parts["switched_off"] = sorted(self.processor.switched_off)
        if self.aligned:
            parts["aligned"] = {stream: repr(count) for stream, count in self.aligned.items()}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class LengthTable:
    """Lengths of the samples of a stage, in the order of its annotation table.

    Args:
        tokens: (n,) int32, number of tokens, expanded and cut to the limits; 0 where the annotation is not usable.
        supervised: (n,) int32, number of tokens that the loss sums over.
        media_tokens: (n,) int32, number of the tokens that stand for media.
        items: stream -> (n,) int32, number of media items that still have tokens after cutting.
        frames: stream that is aligned with a teacher -> (n,) int32, number of its aligned frames.
        costs: stream whose items are measured -> (n,) int32, cost of encoding its media, in 1 / COST_UNIT of the
            standard item of its tower.
    """

    tokens: np.ndarray
    supervised: np.ndarray
    media_tokens: np.ndarray
    items: Mapping[str, np.ndarray]
    frames: Mapping[str, np.ndarray] = field(default_factory=dict)
    costs: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all numbers of the table."""
        digest = hashlib.sha256()
        tables = (self.items, self.frames, self.costs)
        media = [columns[stream] for columns in tables for stream in sorted(columns)]
        for column in (self.tokens, self.supervised, *media):
            digest.update(np.ascontiguousarray(column, "<i4").tobytes())
        return digest.hexdigest()

    def select(self, indices: np.ndarray) -> "LengthTable":
        """Returns the table of some samples."""
        by_stream = (
            {stream: column[indices] for stream, column in columns.items()}
            for columns in (self.items, self.frames, self.costs)
        )
        return LengthTable(self.tokens[indices], self.supervised[indices], self.media_tokens[indices], *by_stream)

    def encodings(self, stream: str) -> np.ndarray:
        """Cost of encoding the media of a stream, in standard items of its tower. Shape: (n,)"""
        return self.costs[stream] / COST_UNIT if stream in self.costs else self.items[stream]


def open_lengths(
    table: AnnotationTable,
    make: ExampleMaker,
    cache: Path,
    *,
    workers: int = 1,
    progress: ProgressCallback | None = None,
) -> LengthTable:
    """Returns the lengths of the samples of a table. What was not counted before, or whose files changed, is counted.

    Args:
        cache: folder of finished tables and chunks; may be deleted at any time.
        workers: number of processes that count, if there is enough to count.
        progress: called while samples are counted.
    """
    key = make.key()
    columns = [
        _open_file(file, make, key, cache, wanted, workers, progress or no_progress)
        for file, wanted in zip(table.files, table.selections, strict=True)
    ]
    whole = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
    if len(table) < whole.shape[1]:
        whole = whole[:, table.selection]
    tokens, supervised, media_tokens, *rest = whole
    items = dict(zip(make.processor.streams, rest, strict=False))
    frames = dict(zip(make.aligned, rest[len(items) :], strict=False))
    costs = dict(zip(make.measured, rest[len(items) + len(frames) :], strict=True))
    return LengthTable(tokens, supervised, media_tokens, items, frames, costs)


def table_path(file: AnnotationFile, key: str, cache: Path, by_media: bool = False) -> Path:
    """Returns the path of the finished table of an annotation file.

    The name depends on whether there is a media folder, but not on its path, unless files decide the tokens: media
    files, or stored features. Where there are features, or media are named by ids, it also depends on all names in the
    folders.
    """
    folder = f"{file.media} {file.features}" if by_media or file.features else file.media is None
    parts = f"{file.content_hash} {folder} {key} {file.listing()}"
    if file.frame_rate is not None:
        parts += f" {file.frame_rate} frames per second"
    return cache / f"lengths-{hashlib.sha256(parts.encode()).hexdigest()[:32]}.npy"


def _open_file(
    file: AnnotationFile,
    make: ExampleMaker,
    key: str,
    cache: Path,
    wanted: np.ndarray,
    workers: int,
    tell: ProgressCallback,
) -> np.ndarray:
    """Returns the table of one annotation file, with true lengths of the ``wanted`` samples.

    Shape: (num_columns, m) int32, the columns of a LengthTable
    """
    path = table_path(file, key, cache, make.processor.looks_at_media)
    listed = path.with_suffix(FILES)
    stored = stored_table(path, listed, (make.num_columns, len(file)))
    if stored is None:
        _build(file, make, path, wanted, workers, tell)
        stored = np.load(path, mmap_mode="r"), *CountedFiles.load(listed, "media")
    table, files, media = stored
    changed = files.changed_samples() if str(media) == str(file.media) else np.unique(files.samples)
    # A length of 0 is no fact: whatever stood in the way may have been mended.
    unusable = np.intersect1d(np.flatnonzero(table[0] == 0), wanted)
    stale = np.union1d(np.intersect1d(changed, wanted), unusable)
    if not len(stale):
        return table
    if len(stale) >= WORTH_PROCESSES and workers > 1 and _have_changed(file, make, stale, unusable):
        path.unlink()
        _build(file, make, path, np.union1d(wanted, np.flatnonzero(table[0])), workers, tell)
        return np.load(path, mmap_mode="r")
    tell(f"tokens of {file.name}", len(file) - len(stale), len(file))
    counts, anew = count_samples(file, make, stale.tolist())
    if anew.paths or (counts != table[:, stale]).any():
        table = np.array(table)
        table[:, stale] = counts
        save_atomic(path, table)  # first: a list that is older than its table only makes samples be counted again
        files.with_anew(stale, anew).save(listed, media=np.array(str(file.media)))
    return table


def _have_changed(file: AnnotationFile, make: ExampleMaker, stale: np.ndarray, unusable: np.ndarray) -> bool:
    """Whether so many samples have other lengths that the whole table is worth counting anew: not so where most of
    them were unusable and still are."""
    if len(stale) - len(unusable) >= WORTH_PROCESSES:
        return True
    few = unusable[np.linspace(0, len(unusable) - 1, min(LOOKED_AT, len(unusable))).astype(int)]
    return bool(count_samples(file, make, few.tolist())[0][0].any())


def _build(
    file: AnnotationFile, make: ExampleMaker, path: Path, wanted: np.ndarray, workers: int, tell: ProgressCallback
) -> None:
    """Write the table of a file. Samples that are not wanted get the length 0, which is counted where they are."""
    chunks = path.with_suffix(".chunks")
    chunks.mkdir(parents=True, exist_ok=True)
    some: dict[str, Any] = {} if len(wanted) == len(file) else {"wanted": wanted}
    count = partial(count_chunk, file, make, chunks, CHUNK, **some)
    numbers = range(-(-len(file) // CHUNK))
    sizes = [min(CHUNK, len(file) - number * CHUNK) for number in numbers]
    stored = [stored_chunk(chunk_path(chunks, number), (make.num_columns, sizes[number])) for number in numbers]
    missing = [number for number in numbers if stored[number] is None]
    done = len(file) - sum(sizes[number] for number in missing)
    if len(missing) * CHUNK < WORTH_PROCESSES or workers < 2:
        finished = _count_here(count, missing)
    else:
        finished = work_in_processes(count, missing, workers)
    tell(f"tokens of {file.name}", done, len(file))
    for number in finished:
        done += sizes[number]
        tell(f"tokens of {file.name}", done, len(file))
    parts = [stored[number] or CountedFiles.load(chunk_path(chunks, number), "counts") for number in numbers]
    nothing = np.empty((make.num_columns, 0), np.int32)
    save_atomic(path, np.concatenate([nothing, *(counts for _, counts in parts)], axis=1))
    files = CountedFiles.joined(files for files, _ in parts)
    files.save(path.with_suffix(FILES), media=np.array(str(file.media)))
    shutil.rmtree(chunks, ignore_errors=True)


def _count_here(count: Callable[[int], None], numbers: list[int]) -> Iterator[int]:
    for number in numbers:
        count(number)
        yield number


def chunk_path(folder: Path, number: int) -> Path:
    """Returns the path of a finished chunk."""
    return folder / f"{number:06d}.npz"


def count_chunk(
    file: AnnotationFile,
    make: ExampleMaker,
    folder: Path,
    size: int,
    number: int,
    wanted: np.ndarray | None = None,
) -> None:
    """Count the ``size`` samples of a file from ``number * size`` on, and write the chunk.

    Args:
        wanted: indices of the samples that are counted, ascending; the others get zeros. None: all.
    """
    start, end = number * size, min((number + 1) * size, len(file))
    if wanted is None:
        counts, files = count_samples(file, make, range(start, end))
    else:
        own = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, end)]
        counts = np.zeros((make.num_columns, end - start), np.int32)
        counts[:, own - start], files = count_samples(file, make, own.tolist())
    files.save(chunk_path(folder, number), counts=counts)


def count_samples(file: AnnotationFile, make: ExampleMaker, indices: Sequence[int]) -> tuple[np.ndarray, CountedFiles]:
    """Count some samples of a file. Returns their columns, zeros for unusable samples, and the files of the others.

    Shape: -> (num_columns, number of indices) int32
    """
    streams, by_media = list(make.processor.streams), make.processor.looks_at_media
    counts = np.zeros((make.num_columns, len(indices)), np.int32)
    seen: dict[str, FileVersion] = {}
    pairs: list[tuple[int, str]] = []
    for column, index in enumerate(indices):
        try:
            sample = file.sample(index)
            paths = files_of(sample, by_media)
            seen.update((path, version_of(path)) for path in paths if path not in seen)
            example = make(sample)
            frames = make.frames(example)
        except SampleProblem:
            continue
        pairs += [(index, path) for path in paths]
        media_tokens = sum(slot.num_tokens for slot in example.media)
        counts[:3, column] = len(example), example.num_supervised, media_tokens
        for slot in example.media:
            counts[3 + streams.index(slot.stream), column] += 1
        counts[3 + len(streams) :, column] = [*frames.values(), *make.costs(example).values()]
    return counts, CountedFiles.of(seen, pairs)


def save_atomic(path: Path, array: np.ndarray) -> None:
    """Write an array to a file that is complete or not there, also when several processes write it."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
