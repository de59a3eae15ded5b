"""From the plan to packs ready for the model, ahead of the step that needs them.

A thread takes this rank's packs of every step from the plan and tokenises them, worker processes decode, and finished
packs wait in a short queue. Everything is done in plan order, so what is loaded, and what is left out because a file
failed, does not depend on timing. What the feature store holds of a file is taken from there, and not decoded.

A file that failed in a step is left out by the packs that saw it fail, and by every pack of later steps on every rank:
what other ranks saw arrives by :meth:`PackLoader.learn`, and :meth:`LoadedPack.without` takes it out of packs that were
ready before.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.preprocessing.streams import Preprocessing
from vidtune.planning.plan import StagePlan, share
from vidtune.processing.batch import Batch, Example, LoadedItem, MediaSlot, StreamBatch, join, pack
from vidtune.training.exclusions import Excluded
from vidtune.training.packs.decoded import Decoded, DecodedMedia
from vidtune.training.setup.stored_features import Found, StoredFeatures

PACKS_AHEAD = 8
CLOSING_SECONDS = 2.0  # a thread that waits for a hanging file is left behind; closing the pool ends it


@dataclass(frozen=True, eq=False)
class LoadedPack:
    """A micro-batch of a step, or an empty place in it.

    Args:
        step: the optimizer step it belongs to, from 0.
        number: the pack's number in the step, from 0; None for a dummy, which keeps ranks equally long.
        is_last: whether the step ends with it on this rank.
        batch: None for a dummy, and when every sample was left out.
        excluded: samples left out.
        num_supervised: tokens the loss of ``batch`` sums over.
        rank: whose it is.
        indices, examples: table indices and examples of ``batch``, in its order.
    """

    step: int
    number: int | None
    is_last: bool
    batch: Batch | None = None
    excluded: list[Excluded] = field(default_factory=list)
    num_supervised: int = 0
    rank: int = 0
    indices: list[int] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Memory of the batch."""
        return 0 if self.batch is None else self.batch.nbytes

    def without(self, failed: Mapping[str, int]) -> "LoadedPack":
        """The pack without samples that need a file which failed in an earlier step; itself when there is none.

        Args:
            failed: media path -> first step it failed in, on any rank.
        """
        bad = [failed_before(example, failed, self.step) for example in self.examples]
        if self.batch is None or not any(bad):
            return self
        kept = [place for place, path in enumerate(bad) if path is None]
        left_out = [
            left_out_again(example.id, index, self.step, path, failed[path], self.rank)
            for example, index, path in zip(self.examples, self.indices, bad, strict=True)
            if path is not None
        ]
        examples = [self.examples[place] for place in kept]
        batch = join(examples, self._media(bad)) if kept else None
        return replace(
            self,
            batch=batch,
            excluded=self.excluded + left_out,
            num_supervised=batch.num_supervised if batch is not None else 0,
            indices=[self.indices[place] for place in kept],
            examples=examples,
        )

    def _media(self, bad: Sequence[str | None]) -> dict[str, StreamBatch]:
        """The media of the examples that are not bad."""
        assert self.batch is not None
        kept: dict[str, list[int]] = {stream: [] for stream in self.batch.media}
        place = dict.fromkeys(kept, 0)
        for example, path in zip(self.examples, bad, strict=True):
            for slot in example.media:
                kept[slot.stream] += [place[slot.stream]] if path is None else []
                place[slot.stream] += 1
        return {stream: self.batch.media[stream].select(places) for stream, places in kept.items() if places}


def failed_before(example: Example, failed: Mapping[str, int], step: int) -> str | None:
    """The first of an example's files that failed in an earlier step."""
    paths = (slot.ref.path for slot in example.media)
    return next((path for path in paths if failed.get(path, step) < step), None)


def left_out_again(id: str, index: int, step: int, path: str, failed_in: int, rank: int) -> Excluded:
    """The record of a sample whose file is known to fail."""
    return Excluded(id, index, step, path, f"failed in step {failed_in} and is not tried again", rank)


@dataclass(frozen=True)
class Requested:
    """A media item on its way.

    Args:
        found: what the store has of it.
        decoded: the file, for the rest; None: nothing else is needed.
    """

    found: Found
    decoded: Decoded | None

    def loaded(self, slot: MediaSlot, is_unchanged: Callable[[MediaRef, str], bool]) -> LoadedItem:
        """The item, once it is decoded.

        Args:
            is_unchanged: whether a file still has a key; features of one that changed meanwhile are not stored.
        """
        found, decoded = self.found, self.decoded
        array, second = (decoded.array, decoded.second) if decoded is not None else (None, None)
        values = array if found.features is None else found.features
        assert values is not None

        def usable(key: str | None) -> str | None:
            same = decoded is not None and key is not None and key == decoded.identity
            return key if same and key is not None and is_unchanged(slot.ref, key) else None

        return LoadedItem(
            values,
            slot.encoded or found.features is not None,
            usable(found.key),
            second if found.taught is None else found.taught,
            found.taught is not None,
            usable(found.teacher_key),
        )


@dataclass
class PlannedPack:
    """A pack whose media are on their way; ``media`` has the items of each example. ``excluded``: left out already."""

    step: int
    number: int | None
    is_last: bool
    indices: list[int] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    media: list[list[Requested]] = field(default_factory=list)
    excluded: list[Excluded] = field(default_factory=list)


class PackLoader:
    """Iterates over one rank's packs of steps ``first_step`` to the stage's last; every rank has equally many.

    Args:
        plan: packs of each step.
        make_example: (table index, epoch) -> tokenised example; may raise SampleProblem.
        preprocessing: per stream.
        pool: decodes; owned by the caller.
        first_step: steps done already.
        known: what the run left out so far, on all ranks; steps that run again leave out the same.
        rank, world: which packs are loaded.
        teachers: preprocessing of what teachers see, of the streams that have one; a file is decoded once for both.
        stored: where features are found that were computed before; None: nowhere.
    """

    def __init__(
        self,
        plan: StagePlan,
        make_example: Callable[[int, int], Example],
        preprocessing: Mapping[str, Preprocessing],
        pool: MediaPool,
        *,
        first_step: int = 0,
        known: Iterable[Excluded] = (),
        rank: int = 0,
        world: int = 1,
        teachers: Mapping[str, Preprocessing] | None = None,
        stored: StoredFeatures | None = None,
    ) -> None:
        self._plan, self._make_example, self._preprocessing = plan, make_example, preprocessing
        self._teachers = dict(teachers or {})
        self._stored = stored or StoredFeatures()
        self._rank, self._world = rank, world
        self._next_step = first_step
        self._known = {(entry.index, entry.step): entry for entry in known}
        self._failed: dict[str, int] = {}
        for entry in self._known.values():
            if entry.path is not None:
                self.learn({entry.path: entry.step})
        self._planned: deque[PlannedPack] = deque()
        self._media = DecodedMedia(pool, self._plan_if_near)

    def __iter__(self) -> Iterator[LoadedPack]:
        while self._planned or self._plan_step():
            yield self._load(self._planned.popleft())

    def learn(self, failed: Mapping[str, int]) -> None:
        """Take note of files that failed, on any rank, so that later steps do not wait for them again.

        Args:
            failed: media path -> first step it failed in.
        """
        for path, step in failed.items():
            self._failed[path] = min(step, self._failed.get(path, step))

    def _plan_if_near(self) -> bool:
        return len(self._planned) < PACKS_AHEAD and self._plan_step()

    def _plan_step(self) -> bool:
        if self._next_step >= self._plan.total_steps:
            return False
        step = self._next_step
        self._next_step += 1
        packs = self._plan.packs(step)
        numbers = share(self._plan.costs(step), self._world)[self._rank]
        for place, number in enumerate(numbers):
            planned = PlannedPack(step, number, place == len(numbers) - 1)
            if number is not None:
                for index in packs[number].tolist():
                    self._add(planned, index)
            self._planned.append(planned)
        return True

    def _add(self, planned: PlannedPack, index: int) -> None:
        """Tokenise a sample and ask for its files, unless it is known to be left out."""
        step = planned.step
        if (index, step) in self._known:
            planned.excluded.append(self._known[index, step])
            return
        try:
            example = self._make_example(index, self._plan.epoch(step))
        except SampleProblem as problem:
            planned.excluded.append(Excluded(problem.sample, index, step, None, problem.detail, self._rank))
            return
        known_to_fail = failed_before(example, self._failed, step) is not None
        planned.indices.append(index)
        planned.examples.append(example)
        planned.media.append([] if known_to_fail else [self._request(slot) for slot in example.media])

    def _request(self, slot: MediaSlot) -> Requested:
        """Look an item up in the store, and ask for its file where that has not all of it."""
        found = self._stored.find(slot.ref)
        own, second = self._preprocessing[slot.stream], self._teachers.get(slot.stream)
        if found.taught is not None:
            second = None
        if found.features is not None:
            return Requested(found, None)
        job = LoadJob(slot.ref.path, own, slot.seed, second)
        return Requested(found, self._media.request(job, found.key or found.teacher_key))

    def _load(self, planned: PlannedPack) -> LoadedPack:
        indices: list[int] = []
        examples: list[Example] = []
        items: list[list[LoadedItem]] = []
        excluded = list(planned.excluded)
        for index, example, media in zip(planned.indices, planned.examples, planned.media, strict=True):
            failure = self._failure(example, index, planned.step, media)
            if failure is not None:
                excluded.append(failure)
                continue
            indices.append(index)
            examples.append(example)
            unchanged = self._stored.is_unchanged
            items.append([item.loaded(slot, unchanged) for slot, item in zip(example.media, media, strict=True)])
        batch = pack(examples, items) if examples else None
        supervised = batch.num_supervised if batch is not None else 0
        return LoadedPack(
            planned.step, planned.number, planned.is_last, batch, excluded, supervised, self._rank, indices, examples
        )

    def _failure(self, example: Example, index: int, step: int, media: list[Requested]) -> Excluded | None:
        """Wait for an example's files; why it is left out, or None."""
        path = failed_before(example, self._failed, step)
        if path is not None:
            return left_out_again(example.id, index, step, path, self._failed[path], self._rank)
        for slot, item in zip(example.media, media, strict=True):
            decoded = item.decoded
            if decoded is None:
                continue
            self._media.wait_for(decoded)
            if decoded.error is not None:
                self.learn({slot.ref.path: step})
                reason, seconds = decoded.error.reason, decoded.seconds
                return Excluded(example.id, index, step, slot.ref.path, reason, self._rank, seconds)
        return None


class Ahead:
    """Runs an iterator in a thread and keeps a few of its items ready; errors of the thread arrive in their place.

    Args:
        items: consumed in the thread only.
        depth: how many may wait.
        max_bytes: how much memory their batches may take, about; one may always wait. None: any.
    """

    def __init__(self, items: Iterator[LoadedPack], depth: int = PACKS_AHEAD, max_bytes: float | None = None) -> None:
        self._items, self._depth, self._max_bytes = items, depth, max_bytes
        self._ready: deque[LoadedPack | BaseException | None] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="pack-loader", daemon=True)
        self.seconds_waited = 0.0

    def __enter__(self) -> "Ahead":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(CLOSING_SECONDS)

    def next(self) -> LoadedPack:
        """The next item; time spent waiting for it is added to ``seconds_waited``."""
        started = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._ready)
            item = self._ready.popleft()
            self._changed.notify_all()
        self.seconds_waited += time.perf_counter() - started
        if isinstance(item, BaseException):
            raise item
        if item is None:
            raise RuntimeError("no pack is left")
        return item

    def upcoming(self) -> Batch | None:
        """The batch of the item that `next` will give, if it is ready; nothing is taken."""
        with self._changed:
            item = self._ready[0] if self._ready else None
        return item.batch if isinstance(item, LoadedPack) else None

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: LoadedPack | BaseException | None) -> bool:
        """Add an item when there is room; False when nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(item))
            self._ready.append(item)
            self._changed.notify_all()
            return not self._closed

    def _has_room(self, item: LoadedPack | BaseException | None) -> bool:
        if not self._ready or not isinstance(item, LoadedPack):
            return True
        waiting = [other for other in self._ready if isinstance(other, LoadedPack)]
        fits = self._max_bytes is None or sum(pack.nbytes for pack in [*waiting, item]) <= self._max_bytes
        return fits and len(waiting) < self._depth
