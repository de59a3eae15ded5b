"""Loads packs: takes them from the plan, tokenises their samples and has their media decoded.

A thread takes this rank's packs of every step from the plan and tokenises them, and worker processes decode the media.
Everything is done in the order of the plan. So what is loaded, and what is left out because a file failed, does not
depend on timing. Features that are in the feature store are read from there; their files are not decoded.

A file that fails in a step is left out of the packs that saw it fail, and of every pack of later steps on every rank;
one that could not be read then is tried again in the next epoch.
What other ranks saw arrives by :meth:`PackLoader.learn`; :meth:`LoadedPack.without` removes such a file from packs that
were loaded before it arrived.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef
from vidtune.errors import ItemError, UnreadMediaError
from vidtune.media.pool import LoadJob, MediaPool
from vidtune.media.preprocessing.kinds import Preprocessing, among
from vidtune.planning.plan import StagePlan, share
from vidtune.processing.batch import Example, Item, MediaSlot, Teaching, pack
from vidtune.training.packs.decoded import Decoded, DecodedMedia
from vidtune.training.packs.pack import LoadedPack, failed_before, left_out_again
from vidtune.training.setup.exclusions import FOREVER, Excluded, FailedFiles, failure_of
from vidtune.training.setup.stored_features import Found, StoredFeatures

PLANNED_PACKS = 8
"""Packs whose media are requested before the pack is needed."""


@dataclass(frozen=True)
class Requested:
    """A media item that was requested.

    Args:
        found: the features that the store holds of it.
        decoded: the decoded file, or the promise of it; None if the store holds everything.
    """

    found: Found
    decoded: Decoded | None

    def loaded(self, slot: MediaSlot, sample: str, is_unchanged: Callable[[MediaRef, str], bool]) -> Item:
        """Returns the item, after its file was decoded.

        Args:
            sample: id of the sample.
            is_unchanged: returns whether a file still has a key; features of a file that has changed are not stored.
        """
        found, decoded = self.found, self.decoded
        array, second = (decoded.array, decoded.second) if decoded is not None else (None, None)

        def usable(key: str | None) -> str | None:
            same = decoded is not None and key is not None and key == decoded.identity
            return key if same and key is not None and is_unchanged(slot.ref, key) else None

        teacher = None
        if found.taught is not None:
            teacher = Teaching(found.taught.clone(), done=True)
        elif second is not None:
            teacher = Teaching(torch.as_tensor(second), key=usable(found.teacher_key))
        if found.features is not None:
            # The copy reads the memory-mapped features here, and not in the thread that trains.
            return slot.item(found.features.clone(), sample, encoded=True, teacher=teacher)
        assert array is not None
        assert decoded is not None
        return slot.item(array, sample, decoded.extras, key=usable(found.key), teacher=teacher)


@dataclass
class PlannedPack:
    """A pack whose media were requested. ``media``: items of each example. ``excluded``: samples left out already."""

    step: int
    number: int | None
    is_last: bool
    indices: list[int] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    media: list[list[Requested]] = field(default_factory=list)
    excluded: list[Excluded] = field(default_factory=list)


class PackLoader:
    """Iterates over the packs of one rank, from step ``first_step`` to the last step of the stage.

    Every rank has the same number of packs.

    Args:
        plan: plan of the stage.
        make_example: function (table index, epoch) -> tokenised example; may raise SampleProblem.
        preprocessing: preprocessing of each stream.
        pool: pool that decodes media; the caller closes it.
        first_step: number of steps done already.
        known: samples that the run left out so far, on all ranks; steps that run again leave out the same.
        failed: steps of which files are left out that failed before.
        rank, world: this rank, and the number of ranks.
        teachers: preprocessing for the teacher of each distilled stream; a file is decoded once for both.
        stored: features that were computed before; None: there are none.
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
        failed: FailedFiles | None = None,
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
        self._failed: dict[str, tuple[range, ...]] = {}
        self.learn(failed or {})
        self._planned: deque[PlannedPack] = deque()
        self._media = DecodedMedia(pool, self._plan_if_near)

    def __iter__(self) -> Iterator[LoadedPack]:
        while self._planned or self._plan_step():
            yield self._load(self._planned.popleft())

    def learn(self, failed: FailedFiles) -> None:
        """Record files that failed, on any rank, so that later steps do not wait for them again."""
        for path, steps in failed.items():
            self._failed[path] = tuple(dict.fromkeys((*self._failed.get(path, ()), *steps)))

    def _plan_if_near(self) -> bool:
        return len(self._planned) < PLANNED_PACKS and self._plan_step()

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
        """Tokenise a sample and request its files, unless it was left out before."""
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
        epoch = self._plan.epoch(step)
        planned.media.append([] if known_to_fail else [self._request(slot, epoch) for slot in example.media])

    def _request(self, slot: MediaSlot, epoch: int) -> Requested:
        """Look up an item in the store, and request its file if the store does not hold everything."""
        found = self._stored.find(slot.ref)
        own, second = self._preprocessing[slot.stream], self._teachers.get(slot.stream)
        if found.taught is not None:
            second = None
        if found.features is not None:
            return Requested(found, None)
        own, keep = among(own, slot.ref.among), found.key is None and found.teacher_key is None
        job = LoadJob(slot.ref.path, own, slot.seed, second, slot.ref.extras, slot.ref.frames, slot.ref.part, keep)
        return Requested(found, self._media.request(job, found.key or found.teacher_key, epoch))

    def _load(self, planned: PlannedPack) -> LoadedPack:
        indices: list[int] = []
        examples: list[Example] = []
        items: list[list[Item]] = []
        excluded = list(planned.excluded)
        for index, example, media in zip(planned.indices, planned.examples, planned.media, strict=True):
            failure = self._failure(example, index, planned.step, media)
            if failure is not None:
                excluded.append(failure)
                continue
            indices.append(index)
            examples.append(example)
            unchanged = self._stored.is_unchanged
            both = zip(example.media, media, strict=True)
            items.append([item.loaded(slot, example.id, unchanged) for slot, item in both])
        batch = pack(examples, items, self._stored.captions(examples)) if examples else None
        supervised = batch.num_supervised if batch is not None else 0
        return LoadedPack(
            planned.step, planned.number, planned.is_last, batch, excluded, supervised, self._rank, indices, examples
        )

    def _failure(self, example: Example, index: int, step: int, media: list[Requested]) -> Excluded | None:
        """Wait for the files of an example. Returns the record of the failure, or None."""
        path = failed_before(example, self._failed, step)
        if path is not None:
            return left_out_again(example.id, index, step, path, self._failed, self._rank)
        epoch = self._plan.epoch(step)
        for place, slot in enumerate(example.media):
            decoded = media[place].decoded
            if decoded is None:
                continue
            self._media.wait_for(decoded)
            if isinstance(decoded.error, UnreadMediaError) and decoded.epoch < epoch:
                # It was requested ahead, in an earlier epoch, in which it could not be read.
                decoded = self._media.request(decoded.job, decoded.identity, epoch)
                media[place] = replace(media[place], decoded=decoded)
                self._media.wait_for(decoded)
            if isinstance(decoded.error, ItemError):
                reason, seconds = str(decoded.error), decoded.seconds
                return Excluded(example.id, index, step, None, reason, self._rank, seconds)
            if decoded.error is not None:
                path, version = slot.ref.path, decoded.version
                reason = decoded.error.seen_from(path)
                told = failure_of(decoded.error, path, (epoch + 1) * self._plan.steps_per_epoch)
                self.learn({path: (range(step + 1, told.get("again", FOREVER)),)})
                return Excluded(example.id, index, step, path, reason, self._rank, decoded.seconds, version, **told)
        return None
