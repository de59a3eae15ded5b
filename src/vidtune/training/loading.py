"""From the plan to packs ready for the model, ahead of the step that needs them.

A thread plans steps (tokenising, packing), worker processes decode, and finished packs wait in a short queue.
Everything is done in plan order, so what is loaded, and what is left out because a file failed, does not depend on
timing.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from vidtune.data.problems import SampleProblem
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.preprocessing import Preprocessing
from vidtune.processing.order import packs_of_step
from vidtune.processing.packing import Batch, Example, pack
from vidtune.training.decoded import Decoded, DecodedMedia
from vidtune.training.exclusions import Excluded
from vidtune.training.plan import StepPlan

PACKS_AHEAD = 8
CLOSING_SECONDS = 2.0  # a thread that waits for a hanging file is left behind; closing the pool ends it


@dataclass
class LoadedPack:
    """A micro-batch of a step.

    Args:
        step: the optimizer step it belongs to, from 0.
        number: its place in the step, from 0.
        is_last: whether the step ends with it.
        batch: None when every sample of it was left out.
        excluded: samples left out.
        num_supervised: tokens the loss of ``batch`` sums over.
    """

    step: int
    number: int
    is_last: bool
    batch: Batch | None
    excluded: list[Excluded]
    num_supervised: int


@dataclass
class PlannedPack:
    step: int
    number: int
    is_last: bool
    indices: list[int]
    examples: list[Example]
    media: list[list[Decoded]]
    unusable: list[Excluded]


class PackLoader:
    """Iterates over the packs of steps ``first_step`` to the stage's last.

    Args:
        plan: samples of each step.
        make_example: (table index, epoch) -> tokenised example; may raise SampleProblem.
        preprocessing: per stream.
        pool: decodes; owned by the caller.
        max_tokens: limit of a pack.
        failed: media path -> (step, reason) of failures already known; see :mod:`vidtune.training.exclusions`.
    """

    def __init__(
        self,
        plan: StepPlan,
        make_example: Callable[[int, int], Example],
        preprocessing: Mapping[str, Preprocessing],
        pool: MediaPool,
        max_tokens: int,
        failed: Mapping[str, tuple[int, str]],
        first_step: int,
    ) -> None:
        self._plan, self._make_example, self._preprocessing = plan, make_example, preprocessing
        self._max_tokens = max_tokens
        self._failed = dict(failed)
        self._next_step = first_step
        self._planned: deque[PlannedPack] = deque()
        self._media = DecodedMedia(pool, self._plan_if_near)

    def __iter__(self) -> Iterator[LoadedPack]:
        while self._planned or self._plan_step():
            yield self._load(self._planned.popleft())

    def _plan_if_near(self) -> bool:
        return len(self._planned) < PACKS_AHEAD and self._plan_step()

    def _plan_step(self) -> bool:
        if self._next_step >= self._plan.total_steps:
            return False
        step, epoch = self._next_step, self._plan.epoch(self._next_step)
        self._next_step += 1
        indices: list[int] = []
        examples: list[Example] = []
        unusable: list[Excluded] = []
        for index in self._plan.samples(step).tolist():
            try:
                examples.append(self._make_example(index, epoch))
                indices.append(index)
            except SampleProblem as problem:
                unusable.append(Excluded(problem.sample, index, step, None, problem.detail))
        ids = [example.id for example in examples]
        packs = packs_of_step([len(example) for example in examples], self._max_tokens, ids) or [[]]
        for number, members in enumerate(packs):
            chosen = [examples[member] for member in members]
            self._planned.append(
                PlannedPack(
                    step=step,
                    number=number,
                    is_last=number == len(packs) - 1,
                    indices=[indices[member] for member in members],
                    examples=chosen,
                    media=[self._request(example, step) for example in chosen],
                    unusable=unusable if number == 0 else [],
                )
            )
        return True

    def _request(self, example: Example, step: int) -> list[Decoded]:
        return [
            self._media.request(LoadJob(slot.ref.path, self._preprocessing[slot.stream], slot.seed))
            for slot in example.media
            if not self._has_failed(slot.ref.path, step)
        ]

    def _load(self, planned: PlannedPack) -> LoadedPack:
        examples: list[Example] = []
        arrays: list[list[np.ndarray]] = []
        excluded = list(planned.unusable)
        for index, example, media in zip(planned.indices, planned.examples, planned.media, strict=True):
            for decoded in media:
                self._media.wait_for(decoded)
                if decoded.error is not None:
                    self._failed.setdefault(decoded.job.path, (planned.step, decoded.error.reason))
            bad = next((s.ref.path for s in example.media if self._has_failed(s.ref.path, planned.step)), None)
            if bad is not None:
                excluded.append(Excluded(example.id, index, planned.step, bad, self._failed[bad][1]))
                continue
            examples.append(example)
            arrays.append([decoded.array for decoded in media if decoded.array is not None])
        batch = pack(examples, arrays) if examples else None
        supervised = batch.num_supervised if batch is not None else 0
        return LoadedPack(planned.step, planned.number, planned.is_last, batch, excluded, supervised)

    def _has_failed(self, path: str, step: int) -> bool:
        return path in self._failed and self._failed[path][0] <= step


class Ahead:
    """Runs an iterator in a thread and keeps a few of its items ready; errors of the thread arrive in their place.

    Args:
        items: consumed in the thread only.
        depth: how many may wait.
    """

    def __init__(self, items: Iterator[LoadedPack], depth: int = PACKS_AHEAD) -> None:
        self._queue: queue.Queue[LoadedPack | BaseException | None] = queue.Queue(depth)
        self._closed = threading.Event()
        self._items = items
        self._thread = threading.Thread(target=self._run, name="pack-loader", daemon=True)
        self.seconds_waited = 0.0

    def __enter__(self) -> "Ahead":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        deadline = time.monotonic() + CLOSING_SECONDS
        while self._thread.is_alive() and time.monotonic() < deadline:
            with suppress(queue.Empty):
                self._queue.get(timeout=0.02)

    def next(self) -> LoadedPack:
        """The next item; time spent waiting for it is added to ``seconds_waited``."""
        started = time.perf_counter()
        item = self._queue.get()
        self.seconds_waited += time.perf_counter() - started
        if isinstance(item, BaseException):
            raise item
        if item is None:
            raise RuntimeError("no pack is left")
        return item

    def _run(self) -> None:
        try:
            for item in self._items:
                if self._closed.is_set():
                    return
                self._queue.put(item)
            self._queue.put(None)
        except BaseException as error:
            self._queue.put(error)
