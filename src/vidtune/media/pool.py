"""A pool of worker processes that read media files; a file that hangs or crashes its reader costs only itself.

Every worker has its own pipe and its own two slots of shared memory. A thread of the parent hands out jobs, watches the
deadlines, kills a worker whose file does not arrive in time (nothing less ends a stuck read) and starts another.
Workers are forked from a clean server process that has the libraries loaded, so one starts in hundredths of a second.
They never import the program's main module, so scripts need no ``if __name__ == "__main__"`` guard on their account,
and the server is no fork of this process, so it does not matter whether this process uses CUDA or has threads.

Memory is bounded: a worker that holds more than ``max_resident`` after a job is replaced by a fresh one, and jobs are
drawn ahead only while the arrays that wait for ``load``'s caller stay within ``max_waiting``.
"""

import multiprocessing
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import wait
from typing import Any, Self

import numpy as np

from vidtune.errors import MediaError, UserError
from vidtune.machine.memory import waiting_memory, worker_memory
from vidtune.machine.workers import Worker
from vidtune.media.probe import MediaInfo
from vidtune.media.worker import LoadJob, Report, Slot, execute, serve

__all__ = ["LoadJob", "LoadResult", "MediaPool"]

_MAX_FAILED_STARTS = 3


@dataclass
class LoadResult:
    """What became of a job.

    Args:
        array: of the shape ``preprocessing.output_shape()`` tells, float32 or uint8; None on error and for metadata
            jobs.
        info: metadata, for jobs without preprocessing.
        error: what is wrong with the file.
        seconds: time the worker spent on it.
        cpu_seconds: how many of them it computed; the rest it waited for the disk or for a core.
        second: the array of ``LoadJob.second``, if that was asked for.
    """

    job: LoadJob
    array: np.ndarray | None
    error: MediaError | None
    seconds: float
    info: MediaInfo | None = None
    cpu_seconds: float = 0.0
    second: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays; 0 without any."""
        return sum(array.nbytes for array in (self.array, self.second) if array is not None)


class _Task:
    def __init__(self, job: LoadJob) -> None:
        self.job = job
        self.message = pickle.dumps(job)
        self.result: LoadResult | None = None


class _Worker:
    """The parent's end of a worker process.

    ``ready`` is false until it has started; ``task`` is what it was given, ``begun`` whether it has taken it up.
    """

    def __init__(self) -> None:
        self.slots = (Slot(), Slot())
        self.next_slot = cycle(self.slots)
        self.process = Worker(serve, descriptors=[slot.descriptor for slot in self.slots])
        self.connection = self.process.connection
        self.ready = False
        self.task: _Task | None = None
        self.begun = False
        self.started = 0.0

    def give(self, task: _Task) -> None:
        self.task, self.begun, self.started = task, False, time.monotonic()
        self.connection.send_bytes(task.message)

    def end(self) -> None:
        """Kill the process. One that is stuck in the kernel is left to its fate after a second."""
        self.process.end()
        for slot in self.slots:
            slot.close()


class MediaPool:
    """Reads media files in worker processes and gives the results in the order of the jobs.

    Keep one pool open over many calls of ``load``: the processes start once.

    Args:
        workers: number of processes; 0 reads in the calling process, without a time limit.
        timeout: seconds a file may take before its worker is killed; None for no limit.
        prefetch: jobs taken ahead of the result being waited for (default: four per worker).
        processes: how many processes of this machine have a pool of this size, and share its memory.
        max_resident: bytes of memory at which a worker is replaced (default: half of the machine's or container's
            memory, divided by all the workers; half a GiB to 4 GiB).
        max_waiting: bytes of arrays that wait to be taken from ``load``, about (default: a sixteenth of the memory,
            divided by the processes; at most half a GiB). One job for each worker is always drawn.

    Raises:
        UserError: from ``load``, when workers cannot start or shared memory cannot be had.
    """

    def __init__(
        self,
        workers: int,
        timeout: float | None,
        *,
        prefetch: int | None = None,
        processes: int = 1,
        max_resident: int | None = None,
        max_waiting: int | None = None,
    ) -> None:
        if workers < 0 or (prefetch is not None and prefetch < 1):
            raise ValueError(f"workers must be 0 or more and prefetch 1 or more, got {workers} and {prefetch}")
        self.workers = workers
        self.timeout = timeout
        self.prefetch = prefetch or 4 * max(workers, 1)
        self.max_resident = worker_memory(workers * processes) if max_resident is None else max_resident
        self.max_waiting = waiting_memory(processes) if max_waiting is None else max_waiting
        self._largest: int | None = None
        self._changed = threading.Condition()
        self._queue: deque[_Task] = deque()
        self._crew: list[_Worker] = []
        self._failed_starts = 0
        self._failure: BaseException | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        if workers:
            self._bell, self._bell_rope = multiprocessing.Pipe(duplex=False)
            self._thread = threading.Thread(target=self._run, name="vidtune-media-pool", daemon=True)
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers. Closing twice is allowed."""
        with self._changed:
            self._closing = True
            self._failure = self._failure or RuntimeError("the media pool is closed")
            self._changed.notify_all()
        if self._thread is not None:
            self._ring()
            self._thread.join()
            self._thread = None
            self._bell.close()
            self._bell_rope.close()

    def load(self, jobs: Iterable[LoadJob]) -> Iterator[LoadResult]:
        """Results in the order of the jobs, one for each, files with errors included.

        Jobs are drawn in the calling thread, ``prefetch`` ahead, so the iterable may be endless. Leaving the iterator
        early gives up the jobs drawn so far.
        """
        if self.workers == 0:
            yield from (_load_here(job) for job in jobs)
            return
        iterator = iter(jobs)
        window: deque[_Task] = deque()
        try:
            while True:
                while self._has_room(window) and (job := next(iterator, None)) is not None:
                    window.append(self._submit(job))
                if not window:
                    return
                result = self._wait_for(window[0])
                window.popleft()
                yield result
        finally:
            with self._changed:
                self._queue = deque(task for task in self._queue if task not in window)

    def _has_room(self, window: deque[_Task]) -> bool:
        """Whether one more job may be drawn. Files yet to come are taken to be as large as the largest so far."""
        if len(window) < self.workers:
            return True
        if len(window) >= self.prefetch or self._largest is None:
            return False
        sizes = (self._largest if task.result is None else task.result.nbytes for task in window)
        return sum(sizes) + self._largest <= self.max_waiting

    def _submit(self, job: LoadJob) -> _Task:
        task = _Task(job)
        with self._changed:
            self._queue.append(task)
        self._ring()
        return task

    def _wait_for(self, task: _Task) -> LoadResult:
        with self._changed:
            self._changed.wait_for(lambda: task.result is not None or self._failure is not None)
            if task.result is not None:
                return task.result
            assert self._failure is not None
            raise self._failure

    def _ring(self) -> None:
        with self._changed, suppress(OSError):
            self._bell_rope.send_bytes(b"")

    def _run(self) -> None:
        """Body of the pool's thread."""
        try:
            while not self._closing:
                while len(self._crew) < self.workers and not self._closing:
                    self._crew.append(_Worker())
                self._hand_out()
                sources: list[Any] = [self._bell, *(worker.connection for worker in self._crew)]
                ready = wait(sources, self._seconds_to_deadline())
                if self._bell in ready:
                    self._bell.recv_bytes()
                for worker in list(self._crew):
                    if worker.connection in ready:
                        self._hear(worker)
                self._end_late_workers()
        except BaseException as failure:
            with self._changed:
                self._failure = self._failure or failure
                self._changed.notify_all()
        finally:
            for worker in self._crew:
                worker.end()

    def _hand_out(self) -> None:
        for worker in self._crew:
            if worker.ready and worker.task is None:
                with self._changed:
                    task = self._queue.popleft() if self._queue else None
                if task is None:
                    return
                with suppress(OSError):
                    worker.give(task)

    def _seconds_to_deadline(self) -> float | None:
        started = [worker.started for worker in self._crew if worker.task is not None]
        if self.timeout is None or not started:
            return None
        return max(0.0, min(started) + self.timeout - time.monotonic())

    def _hear(self, worker: _Worker) -> None:
        """Take a worker's report, or notice that it has died."""
        try:
            report: Report | None = worker.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._bury(worker)
            return
        if report is None:
            worker.begun = True
            return
        if not worker.ready:
            worker.ready, self._failed_starts = True, 0
            return
        task, worker.task = worker.task, None
        assert task is not None
        if report.crash is not None:
            one_line = "\n" not in report.crash
            raise UserError(report.crash) if one_line else RuntimeError(f"a media worker failed:\n{report.crash}")
        slot, too_large = next(worker.next_slot), report.resident > self.max_resident
        if not too_large:
            self._hand_out()  # the worker goes on, into its other slot, while this one is read
        array, second, *_ = [*slot.read(report.arrays), None, None]
        result = LoadResult(task.job, array, report.error, report.seconds, report.info, report.cpu_seconds, second)
        self._finish(task, result)
        if too_large:
            self._replace(worker)

    def _bury(self, worker: _Worker) -> None:
        code = worker.process.exit_code()
        task = worker.task
        self._replace(worker)
        if task is not None and not worker.begun:
            with self._changed:
                self._queue.appendleft(task)
        elif task is not None:
            seconds = time.monotonic() - worker.started
            reason = f"the process reading it died after {seconds:.1f} s ({_cause_of_death(code)})"
            self._finish(task, LoadResult(task.job, None, MediaError(task.job.path, reason), seconds))
        if not worker.ready:
            self._failed_starts += 1
        if self._failed_starts >= _MAX_FAILED_STARTS:
            raise UserError(f"media workers cannot start ({_cause_of_death(code)}); workers=0 reads in one process")

    def _end_late_workers(self) -> None:
        now = time.monotonic()
        for worker in list(self._crew):
            task = worker.task
            if self.timeout is not None and task is not None and now - worker.started >= self.timeout:
                self._replace(worker)
                error = MediaError(task.job.path, f"was not read within {self.timeout:g} s; gave up on it")
                self._finish(task, LoadResult(task.job, None, error, now - worker.started))

    def _replace(self, worker: _Worker) -> None:
        self._crew.remove(worker)
        worker.end()

    def _finish(self, task: _Task, result: LoadResult) -> None:
        with self._changed:
            task.result = result
            self._largest = max(self._largest or 0, result.nbytes)
            self._changed.notify_all()


def _load_here(job: LoadJob) -> LoadResult:
    started, used = time.perf_counter(), time.thread_time()
    array = second = info = error = None
    try:
        result = execute(job)
        if isinstance(result, MediaInfo):
            info = result
        else:
            array, second, *_ = [*result, None]
    except MediaError as reason:
        error = reason
    seconds, cpu_seconds = time.perf_counter() - started, time.thread_time() - used
    return LoadResult(job, array, error, seconds, info, cpu_seconds, second)


def _cause_of_death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    hints = {"SIGKILL": ", likely out of memory", "SIGSEGV": ", a crash of the decoder"}
    return name + hints.get(name, "")
