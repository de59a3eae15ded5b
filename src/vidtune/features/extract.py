"""Extraction: files whose features are not in the store are decoded in worker processes, encoded and stored.

Files whose features exist are skipped, so that the same command continues where a killed one stopped. A file that
cannot be read is listed; all other files are still extracted.
"""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.features.cache import FeatureCache
from vidtune.features.collection import FAILED, append_records, text_key
from vidtune.features.tower_stream import StreamReport, TextVectors, TowerStream, reads_alike
from vidtune.machine.progress import ProgressCallback, no_progress
from vidtune.machine.records import read_records
from vidtune.media.pool import LoadJob, LoadResult, MediaPool
from vidtune.media.preprocessing.kinds import Preprocessing, among

WAITING_BYTES = 256 * 2**20
"""Maximum size of decoded items that wait for other items of their shape."""


def extract(
    refs: Sequence[MediaRef],
    streams: Mapping[str, TowerStream],
    pool: MediaPool,
    *,
    batch_size: int = 8,
    progress: ProgressCallback = no_progress,
) -> dict[str, StreamReport]:
    """Put the features of all files into the store.

    Args:
        refs: media and the streams that read them; the entries of a file follow each other. Duplicates are extracted
            once.
        streams: streams by name.
        pool: worker processes that decode; the caller closes it.
        batch_size: number of items that a tower encodes at once.
        progress: progress callback, called after every file.

    Returns:
        Report by stream.

    Raises:
        UserError: the store cannot be written.
    """
    work = _Work(list(dict.fromkeys(refs)), streams, batch_size)
    try:
        for result in pool.load(work.jobs()):
            work.take(result)
            progress("files", work.done, len(refs))
        work.finish(pool)
    finally:
        for stream in streams.values():
            stream.cache.flush()  # after Ctrl-C, too
    progress("files", len(refs), len(refs))
    return work.reports


@torch.no_grad()
def extract_texts(texts: TextVectors, batch_size: int, progress: ProgressCallback = no_progress) -> StreamReport:
    """Put the vectors of all texts into the store. Equal texts are read once.

    Args:
        batch_size: number of texts that are read at once.

    Raises:
        UserError: the store cannot be written.
    """
    by_key = {text_key(ids): ids for ids in texts.ids}
    rest = [key for key in by_key if key not in texts.cache.collection]
    for first in range(0, len(rest), batch_size):
        some = rest[first : first + batch_size]
        vectors = texts.read([torch.from_numpy(by_key[key]) for key in some])
        for key, vector in zip(some, vectors, strict=True):
            texts.cache.add(key, vector, wait=True)
        progress("texts", first + len(some), len(rest))
    texts.cache.flush()
    _require_store(texts.cache)
    return StreamReport(stored=len(rest), found=len(by_key) - len(rest))


@dataclass(frozen=True)
class _Requested:
    """A medium of which a stream needs features; ``key``: its identity, None if the file cannot be read."""

    ref: MediaRef
    key: str | None


@dataclass(frozen=True)
class _Decoded:
    """A decoded medium that waits for others of its shape."""

    ref: MediaRef
    key: str
    array: np.ndarray
    extras: Mapping[str, np.ndarray]


class _Work:
    """State of an extraction: what is being decoded, and what waits to be encoded."""

    def __init__(self, refs: list[MediaRef], streams: Mapping[str, TowerStream], batch_size: int) -> None:
        self.reports = {name: StreamReport() for name in streams}
        self._refs, self._streams, self._batch_size = refs, streams, batch_size
        self._written_before = {name: stream.cache.written for name, stream in streams.items()}
        self._encoded: dict[str, list[tuple[MediaRef, str]]] = defaultdict(list)
        self._drawn = self._bytes = 0
        self._seen: set[tuple[str, str]] = set()
        self._decoding: deque[list[_Requested]] = deque()
        self._waiting: dict[tuple[str, tuple[int, ...]], list[_Decoded]] = defaultdict(list)
        self._perhaps_silent: list[tuple[MediaRef, str]] = []
        self._listed = {name: _listed_failures(stream) for name, stream in streams.items()}

    @property
    def done(self) -> int:
        """Number of refs that are finished."""
        return self._drawn - sum(map(len, self._decoding))

    def jobs(self) -> Iterator[LoadJob]:
        """Yields the jobs of the decoders; a job may serve two streams that read a file in the same way."""
        for (path, part), refs in groupby(self._refs, key=lambda ref: (ref.path, ref.part)):
            requested = [found for ref in refs if (found := self._request(ref)) is not None]
            while requested:
                first = requested.pop(0)
                own = self._preprocessing(first)
                second = next((other for other in requested if reads_alike(own, self._preprocessing(other))), None)
                if second is None:
                    self._decoding.append([first])
                    yield LoadJob(path, own, extras=first.ref.extras, frames=first.ref.frames, part=part)
                else:
                    requested.remove(second)
                    self._decoding.append([first, second])
                    yield LoadJob(path, own, None, self._preprocessing(second), first.ref.extras, part=part)

    def take(self, result: LoadResult) -> None:
        """Take the result of the next job."""
        for requested, array in zip(self._decoding.popleft(), (result.array, result.second), strict=False):
            if result.error is not None:
                self._take_error(requested.ref, result.error.seen_from(requested.ref.path))
            else:
                extras = requested.ref.extra_arrays() if result.extras is None else result.extras
                self._take_array(requested, array, extras)
        if self._bytes > WAITING_BYTES:  # items of many shapes, few of each
            self._encode_all()

    def finish(self, pool: MediaPool) -> None:
        """Encode all waiting items, tell files without sound from broken ones, and write everything."""
        self._encode_all()
        results = pool.load(LoadJob(ref.path, None) for ref, _ in self._perhaps_silent)
        for (ref, reason), result in zip(self._perhaps_silent, results, strict=True):
            if result.info is not None and not result.info.audio_seconds:
                self.reports[ref.stream].absent += 1
            else:
                self._fail(ref, reason)
        for stream in self._streams.values():
            stream.cache.flush()
            _require_store(stream.cache)
            self._count_written(stream)

    def _count_written(self, stream: TowerStream) -> None:
        """Count as stored what is on disk now. What another process was faster to write counts as found."""
        report, on_disk = self.reports[stream.name], 0
        for ref, key in self._encoded[stream.name]:
            if key in stream.cache.collection:
                on_disk += 1
            else:
                self._fail(ref, "was encoded but is not in the store; run the same command again")
        report.stored = stream.cache.written - self._written_before[stream.name]
        report.found += on_disk - report.stored

    def _request(self, ref: MediaRef) -> _Requested | None:
        """Returns what has to be decoded for a ref; None: its features exist or are being made."""
        self._drawn += 1
        cache = self._streams[ref.stream].cache
        key = cache.key(ref)  # None: the worker process will report why the file cannot be read
        if key is not None and ((ref.stream, key) in self._seen or key in cache.collection):
            self.reports[ref.stream].found += 1
            return None
        if key is not None:
            self._seen.add((ref.stream, key))
        return _Requested(ref, key)

    def _preprocessing(self, requested: _Requested) -> Preprocessing:
        return among(self._streams[requested.ref.stream].preprocessing, requested.ref.among)

    def _take_error(self, ref: MediaRef, reason: str) -> None:
        if self._streams[ref.stream].preprocessing.output_shapes():
            self._fail(ref, reason)
        else:  # a stream of sound; the file may have none
            self._perhaps_silent.append((ref, reason))

    def _take_array(self, requested: _Requested, array: np.ndarray | None, extras: Mapping[str, np.ndarray]) -> None:
        ref, stream = requested.ref, self._streams[requested.ref.stream]
        if requested.key is None or stream.cache.key(ref) != requested.key:
            self._fail(ref, "changed while it was read")
        elif array is None or not array.size:
            self.reports[ref.stream].absent += 1
        else:
            group = (ref.stream, () if stream.takes_lists else array.shape)
            self._waiting[group].append(_Decoded(ref, requested.key, array, extras))
            self._bytes += array.nbytes
            if len(self._waiting[group]) >= self._batch_size:
                self._encode(stream, self._waiting.pop(group))

    def _encode_all(self) -> None:
        for name, shape in list(self._waiting):
            self._encode(self._streams[name], self._waiting.pop((name, shape)))

    def _encode(self, stream: TowerStream, items: Sequence[_Decoded]) -> None:
        report = self.reports[stream.name]
        self._bytes -= sum(item.array.nbytes for item in items)
        encoded = stream.encode([item.array for item in items], [item.extras for item in items])
        for item, features in zip(items, encoded, strict=True):
            if not features.numel():
                report.absent += 1
            else:
                stream.cache.add(item.key, features, item.ref.path, wait=True)
                self._encoded[stream.name].append((item.ref, item.key))
        _require_store(stream.cache)

    def _fail(self, ref: MediaRef, reason: str) -> None:
        self.reports[ref.stream].failed.append((ref.path, reason))
        if (ref.path, reason) not in self._listed[ref.stream]:
            path = self._streams[ref.stream].cache.collection.folder / FAILED
            append_records(path, [{"stream": ref.stream, "path": ref.path, "reason": reason}])


def _require_store(cache: FeatureCache) -> None:
    if cache.problem is not None:
        raise UserError(f"{cache.problem}; what is written is kept: correct it and run the same command again")


def _listed_failures(stream: TowerStream) -> set[tuple[str, str]]:
    """Path and reason of the files that failed in earlier runs."""
    failures = read_records(stream.cache.collection.folder / FAILED, skip_broken=True)
    return {(failure.get("path", ""), failure.get("reason", "")) for failure in failures}
