"""The inside of a media worker process: takes jobs from a pipe, leaves arrays in slots of shared memory."""

import math
import mmap
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from vidtune.errors import MediaError
from vidtune.machine.memory import resident_bytes
from vidtune.media.feature_file import is_feature_file, read_features
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.media.probe import MediaInfo, probe

ALIGNMENT = 64


@dataclass(frozen=True)
class LoadJob:
    """A media file to read.

    Args:
        path: file, or folder of frame images, or features that are read as they are.
        preprocessing: how it becomes a tensor; None reads the metadata only.
        seed: decides random transforms; None switches them off.
        second: what else the same decoded pixels become, with the same random choices; None: nothing.
    """

    path: str
    preprocessing: Preprocessing | None
    seed: int | None = None
    second: Preprocessing | None = None


@dataclass(frozen=True)
class Report:
    """What a worker says about a job; the arrays themselves lie in the slot.

    Args:
        arrays: shape, and dtype in numpy's short form, of each array in the slot.
        info: metadata, for jobs without preprocessing.
        error: what is wrong with the file.
        crash: traceback of a mistake in the program, or a line on what the machine lacks.
        seconds: time spent on the job; ``cpu_seconds`` of them computing, the rest waiting for the disk or for a core.
        resident: bytes of memory the worker holds now.
    """

    arrays: tuple[tuple[tuple[int, ...], str], ...] = ()
    info: MediaInfo | None = None
    error: MediaError | None = None
    crash: str | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    resident: int = 0


class Slot:
    """A piece of memory without a name, shared by parent and worker, as large as the largest arrays so far.

    It is anonymous memory where the system has it, else an unlinked temporary file: neither is bounded by the size of
    /dev/shm, and neither is left behind when both processes are killed.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = _anonymous_file()
        self.descriptor = descriptor
        self._memory: mmap.mmap | None = None

    def write(self, arrays: Sequence[np.ndarray]) -> None:
        """Raises OSError when the memory cannot be had."""
        size = max(sum(_room(array.nbytes) for array in arrays), mmap.PAGESIZE)
        if os.fstat(self.descriptor).st_size < size:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.descriptor, 0, size)
            else:
                os.ftruncate(self.descriptor, size)
        for view, array in zip(self._views([(a.shape, a.dtype.str) for a in arrays]), arrays, strict=True):
            np.copyto(view, array)

    def read(self, arrays: Sequence[tuple[tuple[int, ...], str]]) -> list[np.ndarray]:
        """Copies of the arrays last written, of these shapes and dtypes."""
        return [view.copy() for view in self._views(arrays)]

    def close(self) -> None:
        self._memory = None
        os.close(self.descriptor)

    def _views(self, arrays: Sequence[tuple[tuple[int, ...], str]]) -> Iterator[np.ndarray]:
        """The arrays where they lie, one after the other."""
        if not arrays:  # a slot that nothing was written to cannot be mapped
            return
        counts = [math.prod(shape) for shape, _ in arrays]
        sizes = [np.dtype(dtype).itemsize * count for (_, dtype), count in zip(arrays, counts, strict=True)]
        if self._memory is None or len(self._memory) < sum(map(_room, sizes)):
            self._memory = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)
        begin = 0
        for (shape, dtype), count, size in zip(arrays, counts, sizes, strict=True):
            yield np.frombuffer(self._memory, dtype, count, begin).reshape(shape)
            begin += _room(size)


def _room(size: int) -> int:
    """Bytes that an array takes in a slot, so that the next one begins at a round place."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vidtune-media")
    descriptor, name = tempfile.mkstemp(prefix="vidtune-media-")
    Path(name).unlink()
    return descriptor


def serve(connection: Connection, *slot_descriptors: int) -> None:
    """Body of a media worker: do the jobs that come in until the parent is gone.

    The worker sends an empty report when it is ready, then for each job None when it begins and a report when it is
    done. It fills the slots in turn, so that the parent can read one while the next job is being done.

    Args:
        slot_descriptors: of the shared memory of each slot.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        connection.send(Report())
        for slot in cycle([Slot(descriptor) for descriptor in slot_descriptors]):
            message = connection.recv_bytes()
            connection.send(None)
            connection.send(_work(message, slot))
    except (EOFError, OSError):
        return


def execute(job: LoadJob) -> list[np.ndarray] | MediaInfo:
    """Do a job in this process: its array, and the second one if there is to be one; or metadata.

    Raises:
        MediaError: the file cannot be read.
    """
    if job.preprocessing is None:
        return probe(job.path)
    if is_feature_file(job.path):
        return [read_features(job.path)]
    if job.second is None:
        return [job.preprocessing.load(job.path, job.seed)]
    pixels = job.preprocessing.read(job.path)
    return [wanted.apply(pixels, job.seed).numpy() for wanted in (job.preprocessing, job.second)]


def _work(message: bytes, slot: Slot) -> Report:
    started, used = time.perf_counter(), time.thread_time()
    info = error = crash = None
    arrays: tuple[tuple[tuple[int, ...], str], ...] = ()
    try:
        job: LoadJob = pickle.loads(message)
        result = execute(job)
        if isinstance(result, MediaInfo):
            info = result
        else:
            arrays = tuple((array.shape, array.dtype.str) for array in result)
            try:
                slot.write(result)
            except OSError as reason:
                size = sum(array.nbytes for array in result) / 2**20
                crash = (
                    f"cannot get {size:.0f} MB of shared memory for {job.path} ({reason.strerror}); use fewer workers"
                )
    except MediaError as reason:
        error = reason
    except MemoryError:
        error = MediaError(job.path, "needs more memory than the machine has")
    except Exception:
        crash = traceback.format_exc()
    seconds, cpu_seconds = time.perf_counter() - started, time.thread_time() - used
    return Report(arrays, info, error, crash, seconds, cpu_seconds, resident_bytes())
