"""Inside of a media worker process: takes jobs from a connection and leaves arrays in shared memory."""

import pickle
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch

from vidtune.errors import ItemError, MediaError, UserError
from vidtune.machine.cores import queued_seconds
from vidtune.machine.memory import resident_bytes
from vidtune.machine.shared_memory import SharedArrays
from vidtune.media.clip_times import Part
from vidtune.media.feature_file import is_feature_file, read_features
from vidtune.media.kept.decoded import Arrays, opened
from vidtune.media.kept.place import DecodedFolder
from vidtune.media.preprocessing.kinds import (
    Preprocessing,
    no_parts,
    parts_of,
    random_setting,
    reads_extras,
    reads_parts,
)
from vidtune.media.probe import MediaInfo, probe
from vidtune.registry import REGISTRIES, Registry


@dataclass(frozen=True)
class LoadJob:
    """A media file to read.

    Args:
        path: media file, folder of frame images, or feature file, which is read without preprocessing.
        preprocessing: makes the tensor; None reads the metadata only.
        seed: decides random transforms; None switches them off.
        second: makes a second tensor from the same decoded pixels, with the same random choices; None: no second one.
        extras: numbers of the medium by name; dropped unless preprocessing reads them.
        frames: names of files in the folder ``path`` that the extras tell of; dropped as the extras are.
        part: what of the file is read; None: the whole file.
        keep: whether the result may be kept on disk; False where something made of it is kept.
    """

    path: str
    preprocessing: Preprocessing | None
    seed: int | None = None
    second: Preprocessing | None = None
    extras: tuple[tuple[str, Any], ...] = ()
    frames: tuple[str, ...] = ()
    part: Part | None = None
    keep: bool = True

    def __post_init__(self) -> None:
        if reads_extras(self.preprocessing):
            return
        object.__setattr__(self, "extras", ())
        object.__setattr__(self, "frames", ())
        if not any(random_setting(steps) for steps in (self.preprocessing, self.second) if steps is not None):
            object.__setattr__(self, "seed", None)  # so that jobs with the same result are equal


def job_message(job: LoadJob, decoded: DecodedFolder | None = None) -> bytes:
    """Message that gives a job to a worker, with the parts that its preprocessing uses and a call has registered.

    Args:
        decoded: where the result may be kept.

    Raises:
        UserError: such a part cannot be sent, because a worker could not import it.
    """
    parts = {}
    for preprocessing in (job.preprocessing, job.second):
        for registry, name in parts_of(preprocessing) if preprocessing is not None else ():
            if name in registry.called:
                parts[registry.kind, name] = _sendable(registry, name)
    return pickle.dumps((parts, decoded, pickle.dumps(job)))


def _sendable(registry: Registry[Any], name: str) -> bytes:
    try:
        part = pickle.dumps(registry.called[name])
    except (pickle.PicklingError, AttributeError, TypeError):
        part = b"__main__"
    if b"__main__" in part:
        raise UserError(
            f"{registry.kind} {name!r}: worker processes cannot import it; define it in a module, or set workers to 0"
        )
    return part


def _read_message(message: bytes) -> tuple[LoadJob, DecodedFolder | None]:
    """The job of a message, and where its result may be kept; its parts are registered here before it is read."""
    parts, decoded, job = pickle.loads(message)
    for (kind, name), part in parts.items():
        registry = next(registry for registry in REGISTRIES if registry.kind == kind)
        if name not in registry:
            registry.register(name, pickle.loads(part))
    return pickle.loads(job), decoded


@dataclass(frozen=True)
class Loaded:
    """What a job made of a file.

    Args:
        values: result of preprocessing, or stored features.
        second: result of ``LoadJob.second``, if the job has one.
        extras: extras by name that preprocessing gave; None: it gives none, and those of the annotation stay.
    """

    values: np.ndarray
    second: np.ndarray | None = None
    extras: dict[str, np.ndarray] | None = None

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], names: Sequence[str] | None) -> "Loaded":
        """The inverse of :attr:`arrays`; ``names``: those of the extras."""
        end = len(arrays) - len(names or ())
        extras = None if names is None else dict(zip(names, arrays[end:], strict=True))
        return cls(arrays[0], arrays[1] if end > 1 else None, extras)

    @property
    def arrays(self) -> list[np.ndarray]:
        """All arrays, in the order of the fields."""
        return [self.values, *([] if self.second is None else [self.second]), *(self.extras or {}).values()]


@dataclass
class LoadResult:
    """Result of a job.

    Args:
        array: float32 or uint8 array with the shape of ``preprocessing.output_shape()``; None on error and for metadata
            jobs.
        error: error of the file.
        seconds: time that the worker spent on the job.
        info: metadata, for jobs without preprocessing.
        cpu_seconds: part of the time spent computing; during the rest the worker waited for the disk or for a core.
        queued_seconds: part of the time in which the worker waited for a core; None if the system does not tell.
        second: array of ``LoadJob.second``, if the job has one.
        extras: extras by name that preprocessing gave; None: it gives none, and those of the annotation stay.
        found: the arrays were kept of an earlier job; the file was not decoded.
        note: what the user should know; the pool says it.
    """

    job: LoadJob
    array: np.ndarray | None
    error: MediaError | None
    seconds: float
    info: MediaInfo | None = None
    cpu_seconds: float = 0.0
    queued_seconds: float | None = None
    second: np.ndarray | None = None
    extras: dict[str, np.ndarray] | None = None
    found: bool = False
    note: str | None = None

    @classmethod
    def of(cls, job: LoadJob, loaded: Loaded | None, **facts: Any) -> "LoadResult":
        """The result of a job that loaded this, or nothing; ``facts``: the other fields."""
        if loaded is None:
            return cls(job, None, **facts)
        return cls(job, loaded.values, second=loaded.second, extras=loaded.extras, **facts)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays; 0 without arrays."""
        arrays = (self.array, self.second, *(self.extras or {}).values())
        return sum(array.nbytes for array in arrays if array is not None)


@dataclass(frozen=True)
class Report:
    """Message of a worker about a finished job. The arrays are in shared memory.

    Args:
        arrays: shape of each array, and its dtype in numpy's short form.
        extras: names of the last arrays, see :attr:`Loaded.extras`.
        info: metadata, for jobs without preprocessing.
        error: error of the file.
        crash: traceback of a programming error, or one line that names the missing resource of the machine.
        seconds: time spent on the job.
        cpu_seconds: part of it spent computing; during the rest the worker waited for the disk or for a core.
        queued_seconds: part of it in which the worker waited for a core; None if the system does not tell.
        found: the arrays were kept of an earlier job.
        note: what the user should know.
        resident: bytes of memory that the worker holds now.
    """

    arrays: tuple[tuple[tuple[int, ...], str], ...] = ()
    extras: tuple[str, ...] | None = None
    info: MediaInfo | None = None
    error: MediaError | None = None
    crash: str | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    resident: int = 0
    queued_seconds: float | None = None
    found: bool = False
    note: str | None = None


def serve(connection: Connection, *slot_descriptors: int) -> None:
    """Body of a media worker: do the jobs that come in until the parent is gone.

    The worker sends an empty report when it is ready, then for each job None when it begins and a report when it is
    done. It uses its pieces of shared memory in turn, so that the parent can read one during the next job.

    Args:
        slot_descriptors: open file of each piece of shared memory.
    """
    torch.set_num_threads(1)
    try:
        connection.send(Report())
        for slot in cycle([SharedArrays(descriptor) for descriptor in slot_descriptors]):
            message = connection.recv_bytes()
            connection.send(None)
            connection.send(_work(message, slot))
    except (EOFError, OSError):
        return


class Outcome(NamedTuple):
    """Result of a job, whether it was kept of an earlier one, and what the user should know."""

    result: Loaded | MediaInfo
    found: bool = False
    note: str | None = None


def fetch(job: LoadJob, decoded: DecodedFolder | None, execute: Callable[[LoadJob], Loaded | MediaInfo]) -> Outcome:
    """Find what an earlier job has kept, or do the job and keep its result.

    Args:
        execute: does the job.

    Raises:
        MediaError: the file cannot be read.
    """
    if decoded is None or not may_be_kept(job):
        return Outcome(execute(job))
    kept, key = opened(decoded), _key(job, decoded)
    if key is None:
        return Outcome(execute(job))
    found = kept.find(key, job.path)
    if found is not None:
        return Outcome(Loaded.of(*found), found=True)
    used = time.thread_time()
    result = execute(job)
    if isinstance(result, Loaded) and _key(job, decoded) == key:
        names = None if result.extras is None else tuple(result.extras)
        kept.keep(key, Arrays(result.arrays, names), time.thread_time() - used)
    return Outcome(result, note=kept.said())


def may_be_kept(job: LoadJob) -> bool:
    """Whether the result of a job may be kept on disk: no metadata, nothing random, and not where its user keeps it."""
    return job.preprocessing is not None and job.keep and job.seed is None


def find(job: LoadJob, decoded: DecodedFolder) -> LoadResult:
    """Find what an earlier job has kept; no file is decoded. Where nothing was found, the result says so."""
    started, used = time.perf_counter(), time.thread_time()
    found = note = None
    with suppress(Exception):  # whoever does the job meets the same error, and tells
        key, kept = _key(job, decoded), opened(decoded)
        found = None if key is None else kept.find(key, job.path)
        note = kept.said()
    loaded = None if found is None else Loaded.of(*found)
    times = {"seconds": time.perf_counter() - started, "cpu_seconds": time.thread_time() - used}
    return LoadResult.of(job, loaded, error=None, found=loaded is not None, note=note, **times)


def _key(job: LoadJob, decoded: DecodedFolder) -> str | None:
    """Name of the result of a job among those that are kept; None: it is not kept."""
    settings = [one for one in (job.preprocessing, job.second) if one is not None]
    return opened(decoded).key(job.path, settings, (job.extras, job.frames, job.part))


def execute(job: LoadJob) -> Loaded | MediaInfo:
    """Do a job in this process. Returns its arrays, or metadata.

    Raises:
        MediaError: the file cannot be read.
    """
    if job.preprocessing is None:
        return probe(job.path).of_part(job.path, job.part)
    if is_feature_file(job.path):
        return Loaded(read_features(job.path))
    if job.part is not None and not reads_parts(job.preprocessing):
        raise ItemError(job.path, no_parts(job.preprocessing))
    part: dict[str, Any] = {} if job.part is None else {"part": job.part}
    if hasattr(job.preprocessing, "load_item"):
        given = {name: _given(job.path, name, numbers) for name, numbers in job.extras}
        named: dict[str, Any] = {"frames": job.frames} if job.frames else {}
        values, extras = job.preprocessing.load_item(job.path, given, job.seed, **named, **part)
        second = None if job.second is None else job.second.load(job.path, job.seed, **part)
        return Loaded(values, second, {name: _single(np.asarray(extra)) for name, extra in extras.items()})
    if job.second is None:
        return Loaded(job.preprocessing.load(job.path, job.seed, **part))
    pixels = job.preprocessing.read(job.path, **part)
    own, second = (wanted.apply(pixels, job.seed).numpy() for wanted in (job.preprocessing, job.second))
    return Loaded(own, second)


def _given(path: str, name: str, numbers: Any) -> np.ndarray:
    """An extra of a job as an array. In float32, the second at which a frame begins would often be in the one before.

    Shape: -> float64, as the lists are nested
    Raises:
        ItemError: no numbers, or lists that differ in length.
    """
    try:
        array = np.array(numbers)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "iuf":
        raise ItemError(path, f"its extra {name!r} is no number, and no lists of numbers that are equally long")
    return array.astype(np.float64)


def _single(extra: np.ndarray) -> np.ndarray:
    """An extra as it travels to a model: in float32, if its numbers are not whole."""
    return extra.astype(np.float32) if extra.dtype == np.float64 else extra


def _work(message: bytes, slot: SharedArrays) -> Report:
    started, used, queued = time.perf_counter(), time.thread_time(), queued_seconds()
    info = error = crash = names = note = None
    found = False
    arrays: tuple[tuple[tuple[int, ...], str], ...] = ()
    try:
        job, decoded = _read_message(message)
        result, found, note = fetch(job, decoded, execute)
        if isinstance(result, MediaInfo):
            info = result
        else:
            names = None if result.extras is None else tuple(result.extras)
            arrays = tuple((array.shape, array.dtype.str) for array in result.arrays)
            try:
                slot.write(result.arrays)
            except OSError as reason:
                size = sum(array.nbytes for array in result.arrays) / 2**20
                crash = (
                    f"cannot get {size:.0f} MB of shared memory for {job.path} ({reason.strerror}); use fewer workers"
                )
    except MediaError as reason:
        error = reason
    except UserError as reason:
        crash = str(reason)
    except MemoryError:
        error = MediaError(job.path, "needs more memory than the machine has")
    except Exception:
        crash = traceback.format_exc()
    seconds, cpu_seconds = time.perf_counter() - started, time.thread_time() - used
    waited = None if queued is None else (queued_seconds() or queued) - queued
    return Report(arrays, names, info, error, crash, seconds, cpu_seconds, resident_bytes(), waited, found, note)
