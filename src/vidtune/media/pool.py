"""Pool of worker processes that read media files. A file that hangs or crashes its reader does not affect others.

Each worker has its own connection and two pieces of shared memory. A thread of the parent hands out jobs, watches the
deadlines, kills a worker whose file is not read in time (nothing less ends a stuck read), and starts a new one. See
`vidtune.machine.workers` for how workers start and end.

A worker that dies or is late may have been ended by the machine (memory, a slow disk), so its job is done again in a
fresh worker. After the last try the error says whose fault it is: `MediaError` where the decoder crashed every time,
`UnreadMediaError` where the workers were killed or late.

What an earlier job has kept can be found by a thread of the parent: then workers start with the first file that is not
kept. A file that holds this thread up is given to a worker, and so are all that follow.

Memory is bounded: a worker that holds more than ``max_resident`` after a job is replaced, and jobs are taken ahead only
while the arrays that wait for the caller of ``load`` stay within ``max_waiting``.
"""

import multiprocessing
import pickle
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import cycle
from multiprocessing.connection import wait
from typing import Any, Self

from vidtune.errors import MediaError, UnreadMediaError, UserError
from vidtune.machine.memory import waiting_memory, worker_memory
from vidtune.machine.shared_memory import SharedArrays
from vidtune.machine.workers import Worker
from vidtune.media.kept.place import DecodedFolder
from vidtune.media.kept.seeking import Seeker
from vidtune.media.probe import MediaInfo
from vidtune.media.worker import (
    Loaded,
    LoadJob,
    LoadResult,
    Report,
    execute,
    fetch,
    find,
    job_message,
    may_be_kept,
    serve,
)

__all__ = ["LoadJob", "LoadResult", "MediaPool"]

_MAX_FAILED_STARTS = 3
_START_SECONDS = 120.0
_TRIES = 2
_TRIES_IF_KILLED = 3
"""Workers that are killed cost little time, and other programs that need memory may end meanwhile."""


class _Task:
    """A job in the pool, and its result when that is there.

    ``tries``: number of times that it was begun and not done. ``seconds``: time that these tries took. ``note``: what
    the user should know of the search for a kept result.
    """

    def __init__(self, job: LoadJob, decoded: DecodedFolder | None) -> None:
        self.job = job
        self.message = job_message(job, decoded)
        self.result: LoadResult | None = None
        self.note: str | None = None
        self.tries = 0
        self.seconds = 0.0


class _Worker:
    """The parent's end of a worker process.

    ``ready``: the worker has started. ``task``: the task that it was given. ``begun``: it has begun that task.
    ``first``: the task that it is started for; None: it takes the next one.
    """

    def __init__(self, first: _Task | None = None) -> None:
        self.first = first
        self.slots = (SharedArrays(), SharedArrays())
        self.next_slot = cycle(self.slots)
        self.process = Worker(serve, descriptors=[slot.descriptor for slot in self.slots])
        self.connection = self.process.connection
        self.ready = False
        self.task: _Task | None = None
        self.begun = False
        self.started = time.monotonic()

    def deadline(self, timeout: float | None) -> float | None:
        """Time at which the worker is late, with its task or with its start; None: never."""
        if not self.ready:
            return self.started + max(_START_SECONDS, timeout or 0)
        return None if timeout is None or self.task is None else self.started + timeout

    def give(self, task: _Task) -> None:
        self.task, self.begun, self.started = task, False, time.monotonic()
        self.connection.send_bytes(task.message)

    def end(self) -> None:
        """Kill the process and release its shared memory."""
        self.process.end()
        for slot in self.slots:
            slot.close()


class MediaPool:
    """Reads media files in worker processes and returns the results in the order of the jobs.

    Keep one pool open for many calls of ``load``, so that the processes start once.

    Args:
        workers: number of processes; 0 reads in the calling process, without a time limit.
        timeout: seconds after which the worker of a file is killed; None: no limit.
        prefetch: number of jobs taken ahead of the next result (default: four per worker).
        processes: number of processes on this machine that have a pool of this size and share the memory.
        max_resident: bytes of memory above which a worker is replaced (default: half of the memory of the machine or
            container, divided by the number of all workers; half a GiB to 4 GiB).
        max_waiting: approximate bytes of arrays that wait for the caller of ``load`` (default: a sixteenth of the
            memory, divided by ``processes``; at most half a GiB). One job per worker is always taken.
        decoded: where decoded media are kept and found again; None: nowhere.
        find_here: what is kept is read in this process, not by workers.

    Raises:
        UserError: from ``load``, if workers cannot start or there is not enough shared memory.
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
        decoded: DecodedFolder | None = None,
        find_here: bool = False,
    ) -> None:
        if workers < 0 or (prefetch is not None and prefetch < 1):
            raise ValueError(f"workers must be 0 or more and prefetch 1 or more, got {workers} and {prefetch}")
        self.workers = workers
        self.timeout = timeout
        self.decoded = decoded
        self.prefetch = prefetch or 4 * max(workers, 1)
        self.max_resident = worker_memory(workers * processes) if max_resident is None else max_resident
        self.max_waiting = waiting_memory(processes) if max_waiting is None else max_waiting
        self._largest: int | None = None
        self._changed = threading.Condition()
        self._queue: deque[_Task] = deque()
        self._again: deque[_Task] = deque()
        self._crew: list[_Worker] = []
        self._failed_starts = 0
        self._failure: BaseException | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        self._seeker: Seeker[_Task, LoadResult] | None = None
        if workers:
            if find_here and decoded is not None:
                self._seeker = Seeker(lambda task: find(task.job, decoded), self._looked, timeout)
            self._bell, self._bell_button = multiprocessing.Pipe(duplex=False)
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
        if self._seeker is not None:
            self._seeker.close()
        if self._thread is not None:
            self._ring()
            self._thread.join()
            self._thread = None
            self._bell.close()
            self._bell_button.close()

    def load(self, jobs: Iterable[LoadJob]) -> Iterator[LoadResult]:
        """Yield one result for each job, in the order of the jobs, also for files with errors.

        Jobs are taken in the calling thread, up to ``prefetch`` ahead, so the iterable may be endless. If the iterator
        is closed early, the jobs taken so far are dropped.
        """
        if self.workers == 0:
            yield from (_say(_load_here(job, self.decoded)) for job in jobs)
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
                yield _say(result)
        finally:
            if self._seeker is not None:
                self._seeker.drop(window)
            with self._changed:
                self._queue = deque(task for task in self._queue if task not in window)

    def _has_room(self, window: deque[_Task]) -> bool:
        """Whether one more job may be taken. Files that are not read yet are assumed as large as the largest so far."""
        if len(window) < self.workers:
            return True
        if len(window) >= self.prefetch or self._largest is None:
            return False
        sizes = (self._largest if task.result is None else task.result.nbytes for task in window)
        return sum(sizes) + self._largest <= self.max_waiting

    def _submit(self, job: LoadJob) -> _Task:
        task = _Task(job, self.decoded)
        if self._seeker is not None and may_be_kept(job) and self._seeker.add(task):
            self._ring()
        else:
            self._enqueue(task)
        return task

    def _enqueue(self, task: _Task) -> None:
        """Give a task to the workers."""
        with self._changed:
            self._queue.append(task)
        self._ring()

    def _looked(self, task: _Task, result: LoadResult) -> None:
        """Called by the seeker's thread."""
        if result.found:
            self._finish(task, result)
        else:
            task.note = result.note
            self._enqueue(task)

    def _wait_for(self, task: _Task) -> LoadResult:
        with self._changed:
            self._changed.wait_for(lambda: task.result is not None or self._failure is not None)
            if task.result is not None:
                return task.result
            assert self._failure is not None
            raise self._failure

    def _ring(self) -> None:
        """Wake the thread of the pool."""
        with self._changed, suppress(OSError):
            self._bell_button.send_bytes(b"")

    def _run(self) -> None:
        """Body of the pool's thread."""
        wanted = self._seeker is None
        try:
            while not self._closing:
                for task in [] if self._seeker is None else self._seeker.late():
                    self._enqueue(task)
                wanted = wanted or bool(self._queue)
                while wanted and len(self._crew) < self.workers and not self._closing:
                    self._crew.append(_Worker(self._again.popleft() if self._again else None))
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
        """Give the next tasks to idle workers."""
        for worker in self._crew:
            if worker.ready and worker.task is None:
                task, worker.first = worker.first, None
                with self._changed:
                    task = task or (self._queue.popleft() if self._queue else None)
                if task is None:
                    continue
                with suppress(OSError):
                    worker.give(task)

    def _seconds_to_deadline(self) -> float | None:
        deadlines = [late for worker in self._crew if (late := worker.deadline(self.timeout)) is not None]
        if self._seeker is not None and (late := self._seeker.deadline()) is not None:
            deadlines.append(late)
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _hear(self, worker: _Worker) -> None:
        """Handle the report of a worker, or its death."""
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
        if isinstance(report.error, UnreadMediaError):
            self._replace(worker)
            self._try_again(task, report.error, report.seconds, _TRIES)
            return
        slot, too_large = next(worker.next_slot), report.resident > self.max_resident
        if not too_large:
            self._hand_out()  # the worker goes on with its other shared memory while this one is read
        loaded = Loaded.of(slot.read(report.arrays), report.extras) if report.arrays else None
        facts: dict[str, Any] = {"error": report.error, "info": report.info, "found": report.found, "note": report.note}
        times: dict[str, Any] = {"seconds": report.seconds, "cpu_seconds": report.cpu_seconds}
        times["queued_seconds"] = report.queued_seconds
        self._finish(task, LoadResult.of(task.job, loaded, **facts, **times))
        if too_large:
            self._replace(worker)

    def _bury(self, worker: _Worker) -> None:
        """Replace a worker that has died. Its task is done again by another one, if it may be tried again."""
        code, seconds = worker.process.exit_code(), time.monotonic() - worker.started
        task, cause = worker.task, _cause_of_death(code)
        self._replace(worker)
        if task is not None and not worker.begun:
            with self._changed:
                self._queue.appendleft(task)
        elif task is not None:
            killed = code in (None, -signal.SIGKILL, -signal.SIGTERM)
            reason = f"the process reading it died after {seconds:.1f} s ({cause})"
            error = (UnreadMediaError if killed else MediaError)(task.job.path, reason)
            self._try_again(task, error, seconds, _TRIES_IF_KILLED if killed else _TRIES)
        if not worker.ready:
            self._failed_starts += 1
        if self._failed_starts >= _MAX_FAILED_STARTS:
            raise UserError(f"media workers cannot start ({cause}); workers=0 reads in one process")

    def _end_late_workers(self) -> None:
        """Kill and replace the workers whose file has taken longer than ``timeout``, and those that do not start."""
        now = time.monotonic()
        for worker in list(self._crew):
            deadline, task = worker.deadline(self.timeout), worker.task
            if deadline is None or now < deadline:
                continue
            if not worker.ready:
                worker.process.end()
                self._bury(worker)
                continue
            self._replace(worker)
            if task is not None:
                error = UnreadMediaError(task.job.path, f"was not read within {self.timeout:g} s; gave up on it")
                self._try_again(task, error, now - worker.started, _TRIES)

    def _try_again(self, task: _Task, error: MediaError, seconds: float, tries: int) -> None:
        """Have a task done again by a fresh worker; after so many tries in all the error stands."""
        task.tries += 1
        task.seconds += seconds
        if task.tries < tries:
            self._again.append(task)
            return
        told = type(error)(error.path, f"{error.reason}, in each of {task.tries} tries")
        self._finish(task, LoadResult(task.job, None, told, task.seconds))

    def _replace(self, worker: _Worker) -> None:
        self._crew.remove(worker)
        worker.end()
        if worker.first is not None:
            self._again.appendleft(worker.first)

    def _finish(self, task: _Task, result: LoadResult) -> None:
        result.note = "; ".join(note for note in (task.note, result.note) if note) or None
        with self._changed:
            task.result = result
            self._largest = max(self._largest or 0, result.nbytes)
            self._changed.notify_all()


def _say(result: LoadResult) -> LoadResult:
    if result.note is not None:
        warnings.warn(result.note, stacklevel=3)
    return result


def _load_here(job: LoadJob, decoded: DecodedFolder | None) -> LoadResult:
    started, used = time.perf_counter(), time.thread_time()
    loaded = info = error = note = None
    found = False
    try:
        result, found, note = fetch(job, decoded, execute)
        if isinstance(result, MediaInfo):
            info = result
        else:
            loaded = result
    except MediaError as reason:
        error = reason
    times = {"seconds": time.perf_counter() - started, "cpu_seconds": time.thread_time() - used}
    return LoadResult.of(job, loaded, error=error, info=info, found=found, note=note, **times)


def _cause_of_death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    hints = {"SIGKILL": ", likely out of memory", "SIGSEGV": ", a crash of the decoder"}
    return name + hints.get(name, "")
