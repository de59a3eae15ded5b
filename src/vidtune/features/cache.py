"""Features of one stream in the store: found there, or written there in the background.

``add`` copies the features and returns; a thread writes a shard when enough features have been collected. The memory
for features that wait for the disk is limited: if the disk is too slow, features are not stored, and are computed again
when they are needed next. An error of the disk does not stop the work; `FeatureCache.problem` describes it. Any other
error of the thread is raised by the next call.
"""

import hashlib
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vidtune.data.sample import MediaRef
from vidtune.errors import UserError
from vidtune.features.collection import Collection, CollectionSpec
from vidtune.machine.devices import DTYPES
from vidtune.media.kept.identity import MediaIdentities

SHARD_BYTES = 64 * 2**20
SHARD_SECONDS = 30.0
"""Maximum time in seconds before features are written, in a shard of any size; a killed process loses at most this."""
WAITING_BYTES = 256 * 2**20
"""Maximum size of the features of one stream that wait to be written."""
TORCH_DTYPES = {name: getattr(torch, name) for name in DTYPES}


class FeatureCache:
    """Features of one tower with one preprocessing.

    Args:
        store: folder of all collections.
        spec: tower and preprocessing of the features.
        identities: identities of media files; share them between the caches of a process, so that files are read once.
        shard_bytes: size in bytes at which a shard is written.
        shard_seconds: age of its first item in seconds at which a shard is written.
        waiting_bytes: maximum size of the features that wait for the disk.

    Attributes:
        problem: why nothing more can be stored; None: there is no problem.
        left_out: number of items that were not stored because the disk was too slow.
        written: number of items that are on disk because of this object.
    """

    def __init__(
        self,
        store: Path,
        spec: CollectionSpec,
        identities: MediaIdentities | None = None,
        *,
        shard_bytes: int = SHARD_BYTES,
        shard_seconds: float = SHARD_SECONDS,
        waiting_bytes: int = WAITING_BYTES,
    ) -> None:
        self.spec = spec
        self.collection = Collection.create(store, spec)
        self.problem: str | None = None
        self.left_out = self.written = 0
        self._failure: BaseException | None = None
        self._identities = identities or MediaIdentities()
        self._shard_bytes, self._shard_seconds, self._waiting_bytes = shard_bytes, shard_seconds, waiting_bytes
        self._dtype = TORCH_DTYPES[spec.dtype]
        self._lock = threading.Lock()
        self._taken: set[str] = set()
        self._waiting: dict[str, _Waiting] = {}
        self._gathered: list[str] = []
        self._bytes = self._gathered_bytes = 0
        self._first_came = time.monotonic()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="feature-writer")
        self._last: Future[None] | None = None
        self._copies: torch.cuda.Stream | None = None

    def key(self, ref: MediaRef) -> str | None:
        """Returns the item of a medium in the collection; None: the file cannot be read."""
        content = self._identities.of(ref.path) if ref.path else None
        if content is None:
            return None
        asked = []
        if self.spec.by_extras and (ref.extras or ref.frames):
            asked.append(repr((ref.extras, ref.frames) if ref.frames else ref.extras))
        if (ref.start, ref.end, ref.fps) != (None, None, None):
            asked.append(repr((ref.start, ref.end, ref.fps)))
        if ref.among > 1:
            asked.append(repr(ref.among))
        return "-".join([content, *(hashlib.sha256(one.encode()).hexdigest()[:16] for one in asked)])

    def find(self, ref: MediaRef) -> Tensor | None:
        """Returns the features of a medium, memory-mapped, (N, C) or longer; None: there are none."""
        key = self.key(ref)
        return None if key is None else self.get(key)

    def get(self, key: str) -> Tensor | None:
        """Returns the features of an item; None: there are none."""
        with self._lock:
            waiting = self._waiting.get(key)
            if self._gathered and time.monotonic() - self._first_came >= self._shard_seconds:
                self._begin_writing()
        return waiting.settled() if waiting is not None else self.collection.get(key)

    def add(self, key: str, features: Tensor, source: str = "", *, wait: bool = False) -> bool:
        """Copy the features of an item, to be written later. Returns whether they will be.

        Args:
            key: the item.
            features: features on any device; the tensor may be changed after the call.
            source: path of the media file, for users.
            wait: if too many features wait for the disk, wait until they are written; False: do not store these.

        Raises:
            UserError: the thread that writes has failed.
        """
        self._require_writer()
        size = features.numel() * self._dtype.itemsize
        if wait and self._bytes + size > self._waiting_bytes:
            self.flush()
        with self._lock:
            if key in self._taken or self.problem is not None:
                return False
            if self._bytes + size > self._waiting_bytes and not (wait and not self._bytes):
                self.left_out += 1
                return False
            if not self._gathered:
                self._first_came = time.monotonic()
            self._taken.add(key)
            self._waiting[key] = self._copy(features.detach(), source)
            self._gathered.append(key)
            self._bytes += size
            self._gathered_bytes += size
            old = time.monotonic() - self._first_came >= self._shard_seconds
            if old or self._gathered_bytes >= self._shard_bytes:
                self._begin_writing()
        return True

    def flush(self) -> None:
        """Write all waiting features, and return when they are on disk.

        Raises:
            UserError: the thread that writes has failed.
        """
        with self._lock:
            self._begin_writing()
            last = self._last
        if last is not None:
            last.result()
        self._require_writer()

    def close(self) -> None:
        """Write all waiting features and end the thread. Closing twice is allowed.

        Raises:
            UserError: the thread that writes has failed.
        """
        try:
            self.flush()
        finally:
            self._writer.shutdown()

    def _require_writer(self) -> None:
        failure = self._failure
        if failure is not None:
            what = " ".join(f"{type(failure).__name__}: {failure}".split())
            raise UserError(
                f"{self.collection.folder}: features cannot be stored: {what}; what is written is kept: run the same "
                "command again"
            ) from failure

    def _begin_writing(self) -> None:
        """Give the collected items to the thread. The caller holds the lock."""
        if self._gathered:
            self._last = self._writer.submit(self._write, self._gathered)
            self._gathered, self._gathered_bytes = [], 0

    def _copy(self, features: Tensor, source: str) -> "_Waiting":
        """Start copying features to the CPU in the dtype of the collection, without waiting for the device."""
        if features.device.type != "cuda":
            copy = features.to(device="cpu", dtype=self._dtype, copy=True, memory_format=torch.contiguous_format)
            return _Waiting(copy, None, source)
        if self._copies is None:
            self._copies = torch.cuda.Stream(features.device)
        self._copies.wait_stream(torch.cuda.current_stream(features.device))
        with torch.cuda.stream(self._copies):
            there = features.to(self._dtype).contiguous()
            host = torch.empty(there.shape, dtype=self._dtype, pin_memory=True)
            host.copy_(there, non_blocking=True)
            features.record_stream(self._copies)
            ready = torch.cuda.Event()
            ready.record(self._copies)
        return _Waiting(host, ready, source)

    def _write(self, keys: list[str]) -> None:
        """Write a shard. Runs in the thread."""
        waiting = {key: self._waiting[key] for key in keys}
        try:
            features = {key: item.settled() for key, item in waiting.items()}
            self.written += self.collection.write(features, {key: item.source for key, item in waiting.items()})
        except OSError as error:
            self.problem = f"{self.collection.folder}: features cannot be stored: {error.strerror or error}"
        except BaseException as error:
            self._failure = error
        with self._lock:
            self._bytes -= sum(item.features.nbytes for item in waiting.values())
            for key in keys:
                del self._waiting[key]


@dataclass(frozen=True)
class _Waiting:
    """Features that are not on disk yet; ``ready`` is the end of their copy from the device, None on the CPU."""

    features: Tensor
    ready: "torch.cuda.Event | None"
    source: str

    def settled(self) -> Tensor:
        if self.ready is not None:
            self.ready.synchronize()
        return self.features
