"""Features of one stream, found in the store or put there behind the back of the work that made them.

``add`` copies and returns; a thread writes a shard when enough was gathered. What waits for the disk is bounded: where
the disk is too slow, features are left out, to be made again when they are next needed. Nothing that goes wrong with
the store stops the work; :attr:`FeatureCache.problem` tells.
"""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vidtune.data.sample import MediaRef
from vidtune.features.collection import Collection, CollectionSpec
from vidtune.features.identity import MediaIdentities

SHARD_BYTES = 64 * 2**20
SHARD_SECONDS = 30.0
"""How old features may grow before they are written, in a shard of whatever size: what a kill may cost."""
WAITING_BYTES = 256 * 2**20
"""What may wait to be written, of one stream."""
TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class FeatureCache:
    """The features of one tower by one rule, for the files that it is asked about.

    Args:
        store: folder of all collections.
        spec: what makes the features.
        identities: of media files; shared by the caches of a process, so that each file is looked into once.
        shard_bytes, shard_seconds: a shard is written when it is so large, or its first item so old.
        waiting_bytes: what may wait for the disk.
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
        self.left_out = 0
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
        """The item's name in the collection; None for a file that cannot be read."""
        return self._identities.of(ref.path) if ref.path else None

    def find(self, ref: MediaRef) -> Tensor | None:
        """The item's features, memory-mapped, (N, C); None when there are none."""
        key = self.key(ref)
        return None if key is None else self.get(key)

    def get(self, key: str) -> Tensor | None:
        """As :meth:`find`, of an item whose name is known."""
        with self._lock:
            waiting = self._waiting.get(key)
            if self._gathered and time.monotonic() - self._first_came >= self._shard_seconds:
                self._begin_writing()
        return waiting.settled() if waiting is not None else self.collection.get(key)

    def add(self, key: str, features: Tensor, source: str = "", *, wait: bool = False) -> None:
        """Take the features of an item to be written; returns before they are.

        Args:
            features: on any device; later changes of the tensor do not count.
            source: the file, for people.
            wait: for the disk, where too much waits for it; else the features are left out then.
        """
        size = features.numel() * self._dtype.itemsize
        if wait and self._bytes + size > self._waiting_bytes:
            self.flush()
        with self._lock:
            if key in self._taken or self.problem is not None:
                return
            if self._bytes + size > self._waiting_bytes:
                self.left_out += 1
                return
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

    def flush(self) -> None:
        """Write all that waits, and return when it is on disk."""
        with self._lock:
            self._begin_writing()
            last = self._last
        if last is not None:
            last.result()

    def close(self) -> None:
        """Flush, and end the thread. Closing twice is allowed."""
        self.flush()
        self._writer.shutdown()

    def _begin_writing(self) -> None:
        """Hand what was gathered to the thread; holds the lock."""
        if self._gathered:
            self._last = self._writer.submit(self._write, self._gathered)
            self._gathered, self._gathered_bytes = [], 0

    def _copy(self, features: Tensor, source: str) -> "_Waiting":
        """The features in the collection's dtype, on their way to the CPU; nothing waits for the device."""
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
        """Write a shard; runs in the thread."""
        waiting = {key: self._waiting[key] for key in keys}
        features = {key: item.settled() for key, item in waiting.items()}
        try:
            self.collection.write(features, {key: item.source for key, item in waiting.items()})
        except OSError as error:
            self.problem = f"{self.collection.folder}: features cannot be stored: {error.strerror or error}"
        with self._lock:
            self._bytes -= sum(tensor.nbytes for tensor in features.values())
            for key in keys:
                del self._waiting[key]


@dataclass(frozen=True)
class _Waiting:
    """Features that are not on disk yet; ``ready`` tells when they have arrived from the device."""

    features: Tensor
    ready: "torch.cuda.Event | None"
    source: str

    def settled(self) -> Tensor:
        if self.ready is not None:
            self.ready.synchronize()
        return self.features
