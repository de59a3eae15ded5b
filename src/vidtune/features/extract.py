"""Extraction: every file that is not in the store is decoded in worker processes, encoded, and stored.

What is there already is passed over, so that the same command goes on where a killed one stopped. A file that cannot
be read is listed and costs only itself.

Legend: B items run together, N tokens, C tower width.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.features.cache import FeatureCache
from vidtune.features.collection import FAILED, append_lines, parse_lines
from vidtune.media.image import FRAME_SUFFIXES
from vidtune.media.pool import LoadJob, LoadResult, MediaPool
from vidtune.media.preprocessing.kinds import Preprocessing

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"})
AUDIO_SUFFIXES = frozenset({".wav", ".mp3", ".flac", ".m4a", ".aac", ".ogg", ".opus"})
WAITING_BYTES = 256 * 2**20
"""What may be decoded and wait for others of its shape."""
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many items are done, how many there are."""


@dataclass(frozen=True)
class TowerStream:
    """A stream and the frozen tower that reads it.

    Args:
        name: of the stream.
        tower: in eval mode, in the dtype and on the device it works in.
        preprocessing: file -> what the tower takes.
        cache: where its features go.
    """

    name: str
    tower: nn.Module
    preprocessing: Preprocessing
    cache: FeatureCache

    @property
    def takes_lists(self) -> bool:
        """Whether the tower encodes items of different shapes together."""
        return getattr(self.tower, "takes_lists", False)

    @torch.no_grad()
    def encode(self, arrays: Sequence[np.ndarray]) -> list[Tensor]:
        """Features of items, of one shape unless the tower takes lists, as a training step computes them.

        Shape: B of *item -> B of (N, C)
        """
        weight = next(self.tower.parameters())
        items = [self.preprocessing.to_float(torch.as_tensor(array).to(weight.device)) for array in arrays]
        values = [item.to(weight.dtype) for item in items]
        with torch.autocast(weight.device.type, torch.bfloat16, enabled=weight.dtype == torch.bfloat16):
            return list(self.tower(values if self.takes_lists else torch.stack(values)))


@dataclass(frozen=True)
class Extraction:
    """What is to be extracted.

    Args:
        title: what it is for.
        streams: by name.
        refused: why other streams are not among them, a line each.
        refs: what they read.
    """

    title: str
    streams: dict[str, TowerStream]
    refused: list[str] = field(default_factory=list)
    refs: list[MediaRef] = field(default_factory=list)


@dataclass
class StreamReport:
    """What became of a stream's files.

    Args:
        stored: features that are new.
        found: files whose features were there.
        absent: files that hold nothing for the stream, such as sound.
        failed: path and reason of files that cannot be read.
    """

    stored: int = 0
    found: int = 0
    absent: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


def media_files(folder: Path) -> list[str]:
    """All files below a folder that are media by their names, in order."""
    suffixes = VIDEO_SUFFIXES | AUDIO_SUFFIXES | FRAME_SUFFIXES
    return sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in suffixes)


def readable_by(stream: TowerStream, path: str) -> bool:
    """Whether a file, by its name, is of the medium that a stream reads."""
    kind, suffix = stream.preprocessing.kind, Path(path).suffix.lower()
    if "image" in kind:
        return suffix in FRAME_SUFFIXES
    if "video" in kind:
        return suffix in VIDEO_SUFFIXES
    return suffix in VIDEO_SUFFIXES | AUDIO_SUFFIXES


def refs_of_folder(folder: Path, streams: Iterable[TowerStream]) -> list[MediaRef]:
    """What the streams read of a folder; all of a file stands together."""
    wanted = list(streams)
    return [MediaRef(s.name, path) for path in media_files(folder) for s in wanted if readable_by(s, path)]


def reads_alike(one: Preprocessing, other: Preprocessing) -> bool:
    """Whether two kinds of preprocessing begin with the same pixels or the same wave, so that a file is read once."""
    owner: Any = next(kind for kind in type(one).__mro__ if "read" in vars(kind))
    same = getattr(type(other), "read", None) is owner.read
    return same and all(getattr(one, name) == getattr(other, name) for name in owner.model_fields)


def share_of(refs: Sequence[MediaRef], rank: int, ranks: int) -> list[MediaRef]:
    """Every ``ranks``-th file of them, with all the streams that read it."""
    paths = list(dict.fromkeys(ref.path for ref in refs))
    mine = set(paths[rank::ranks])
    return [ref for ref in refs if ref.path in mine]


def extract(
    refs: Sequence[MediaRef],
    streams: Mapping[str, TowerStream],
    pool: MediaPool,
    *,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> dict[str, StreamReport]:
    """Put the features of all files into the store.

    Args:
        refs: what is to be read by which stream, all of a file together; what is asked for twice is done once.
        streams: by name.
        pool: decodes; owned by the caller.
        batch_size: items B that a tower is given at once.
        progress: told after every file.

    Returns: by stream, what became of its files.
    Raises:
        UserError: the store cannot be written.
    """
    work = _Extraction(list(dict.fromkeys(refs)), streams, batch_size)
    tell = progress or (lambda what, done, total: None)
    try:
        for result in pool.load(work.jobs()):
            work.take(result)
            tell("files", work.done, len(refs))
        work.finish(pool)
    finally:
        for stream in streams.values():
            stream.cache.flush()  # also what was encoded before Ctrl-C
    tell("files", len(refs), len(refs))
    return work.reports


class _Extraction:
    """What is asked for, on its way through the pool, and waiting for others of its shape."""

    def __init__(self, refs: list[MediaRef], streams: Mapping[str, TowerStream], batch_size: int) -> None:
        self.reports = {name: StreamReport() for name in streams}
        self._refs, self._streams, self._batch_size = refs, streams, batch_size
        self._drawn = self._bytes = 0
        self._asked: deque[list[tuple[MediaRef, str | None]]] = deque()
        self._waiting: dict[tuple[str, tuple[int, ...]], list[tuple[MediaRef, str, np.ndarray]]] = defaultdict(list)
        self._perhaps_silent: list[tuple[MediaRef, str]] = []
        self._listed = {name: _listed(stream) for name, stream in streams.items()}

    @property
    def done(self) -> int:
        """How many refs are through."""
        return self._drawn - sum(map(len, self._asked))

    def jobs(self) -> Iterator[LoadJob]:
        """What has to be decoded, as it is drawn; what is in the store is passed over."""
        requested: set[tuple[str, str]] = set()
        for path, refs in groupby(self._refs, key=lambda ref: ref.path):
            wanted: list[tuple[MediaRef, str | None]] = []
            for ref in refs:
                self._drawn += 1
                cache = self._streams[ref.stream].cache
                key = cache.key(ref)  # None: the worker will say what is wrong with the file
                if key is not None and ((ref.stream, key) in requested or key in cache.collection):
                    self.reports[ref.stream].found += 1
                    continue
                requested |= {(ref.stream, key)} if key is not None else set()
                wanted.append((ref, key))
            while wanted:
                asked = [wanted.pop(0)]
                own = self._streams[asked[0][0].stream].preprocessing
                alike = (part for part in wanted if reads_alike(own, self._streams[part[0].stream].preprocessing))
                second = next(alike, None)
                if second is not None:
                    wanted.remove(second)
                    asked.append(second)
                self._asked.append(asked)
                yield LoadJob(path, own, second=second and self._streams[second[0].stream].preprocessing)

    def take(self, result: LoadResult) -> None:
        """The next of the jobs is done."""
        for (ref, key), array in zip(self._asked.popleft(), (result.array, result.second), strict=False):
            stream, report = self._streams[ref.stream], self.reports[ref.stream]
            if result.error is not None:
                if stream.preprocessing.output_shapes():
                    self._fail(ref, result.error.reason)
                else:
                    self._perhaps_silent.append((ref, result.error.reason))
            elif key is None or stream.cache.key(ref) != key:
                self._fail(ref, "changed while it was read")
            elif array is None or not array.size:
                report.absent += 1
            else:
                group = (ref.stream, () if stream.takes_lists else array.shape)
                self._waiting[group].append((ref, key, array))
                self._bytes += array.nbytes
                if len(self._waiting[group]) >= self._batch_size:
                    self._encode(stream, self._waiting.pop(group))
        if self._bytes > WAITING_BYTES:  # items of many shapes, few of each
            self._encode_all()

    def finish(self, pool: MediaPool) -> None:
        """Encode what still waits, tell files without sound from bad ones, and write everything."""
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

    def _encode_all(self) -> None:
        for name, shape in list(self._waiting):
            self._encode(self._streams[name], self._waiting.pop((name, shape)))

    def _encode(self, stream: TowerStream, waiting: Sequence[tuple[MediaRef, str, np.ndarray]]) -> None:
        report = self.reports[stream.name]
        self._bytes -= sum(array.nbytes for *_, array in waiting)
        for (ref, key, _), features in zip(waiting, stream.encode([array for *_, array in waiting]), strict=True):
            if len(features):
                stream.cache.add(key, features, ref.path, wait=True)
                report.stored += 1
            else:
                report.absent += 1
        _require_store(stream.cache)

    def _fail(self, ref: MediaRef, reason: str) -> None:
        self.reports[ref.stream].failed.append((ref.path, reason))
        if (ref.path, reason) not in self._listed[ref.stream]:
            path = self._streams[ref.stream].cache.collection.folder / FAILED
            append_lines(path, [{"stream": ref.stream, "path": ref.path, "reason": reason}])


def _require_store(cache: FeatureCache) -> None:
    if cache.problem is not None:
        raise UserError(f"{cache.problem}; what is written is kept: mend it and run the same command again")


def _listed(stream: TowerStream) -> set[tuple[str, str]]:
    """Path and reason of the files that failed in earlier runs."""
    path = stream.cache.collection.folder / FAILED
    content = path.read_bytes() if path.is_file() else b""
    return {(entry.get("path", ""), entry.get("reason", "")) for entry in parse_lines(content)}
