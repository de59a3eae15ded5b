"""The plan of a stage: which samples belong to which optimizer step and to which pack, before any pixel is read.

It is a pure function of data, lengths, seed and settings of the stage, and the same on any number of ranks. The ranks'
shares of the packs follow from it, see :func:`share`.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from vidtune.data.sources import of_each_file
from vidtune.data.tables import AnnotationTable
from vidtune.planning.lengths import LengthTable
from vidtune.planning.order import epoch_order
from vidtune.planning.packing import CostModel, EpochPacks, pack_epoch
from vidtune.planning.randomness import generator
from vidtune.recipe.types import Stage

EPOCHS_KEPT = 2


@dataclass(frozen=True)
class PlannedSource:
    """An annotation file in a plan.

    Args:
        path: path of the file, for messages.
        content: hash of the file.
        count: number of samples that the plan draws from, without the excluded ones.
        weight: number of times that an epoch takes each sample.
    """

    path: str
    content: str
    count: int
    weight: float = 1.0

    @property
    def per_epoch(self) -> int:
        """Number of samples that every epoch takes from the file."""
        copies, part = divmod(self.weight, 1)
        return int(copies) * self.count + round(part * self.count)


class StagePlan:
    """The plan of a stage.

    Args:
        stage: settings of the stage: order, batch size, token limit, number of steps or epochs.
        sources: annotation files in the order of the table.
        lengths: lengths of all samples; none is 0 or larger than ``max_tokens_per_batch`` of the stage.
        word_lengths: see `AnnotationTable.word_lengths`.
        data: fingerprint of the samples; other data have another order.
        seed: seed of the recipe.
        cost: cost model that the packs are balanced by.
    """

    def __init__(
        self,
        stage: Stage,
        sources: Sequence[PlannedSource],
        lengths: LengthTable,
        word_lengths: np.ndarray,
        data: str,
        seed: int,
        cost: CostModel | None = None,
    ) -> None:
        self.stage, self.sources, self.lengths, self.data, self.seed = stage, list(sources), lengths, data, seed
        self.cost = cost or CostModel()
        self.samples_per_epoch = sum(source.per_epoch for source in self.sources)
        self._word_lengths = word_lengths
        self._epochs: dict[int, EpochPacks] = {}
        self._lock = Lock()

    @classmethod
    def of(
        cls, stage: Stage, table: AnnotationTable, lengths: LengthTable, seed: int, cost: CostModel | None = None
    ) -> "StagePlan":
        """Returns the plan of a stage over its annotation table."""
        sources = [
            PlannedSource(str(file.path), file.content_hash, count, source.weight)
            for file, count, source in zip(table.files, table.counts, of_each_file(stage.data), strict=True)
        ]
        return cls(stage, sources, lengths, table.word_lengths, table.fingerprint, seed, cost)

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps of an epoch. The last one may be shorter, as in the Trainer of transformers."""
        return math.ceil(self.samples_per_epoch / self.stage.global_batch_size)

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps of the stage."""
        return self.stage.max_steps or math.ceil(self.stage.epochs * self.steps_per_epoch)

    @property
    def fingerprint(self) -> str:
        """Hash of :meth:`identity` without the paths of the files."""
        identity = self.identity()
        identity["files"] = [{**file, "path": None} for file in identity["files"]]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def epoch(self, step: int) -> int:
        """Returns the epoch of a step (both from 0)."""
        return step // self.steps_per_epoch

    def samples_until(self, step: int) -> int:
        """Returns the number of samples of all steps before this one."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * self.samples_per_epoch + min(steps * self.stage.global_batch_size, self.samples_per_epoch)

    def packs(self, step: int) -> list[np.ndarray]:
        """Returns the table indices of each pack of a step; the number of a pack is its index in this list."""
        return self.packs_of_epoch(self.epoch(step)).step(step % self.steps_per_epoch)

    def costs(self, step: int) -> np.ndarray:
        """Returns the cost of each pack of a step, in language-model tokens. Shape: (packs,) float64"""
        return np.array([self.cost.of(self.lengths, pack).sum() for pack in self.packs(step)])

    def supervised(self, step: int) -> int:
        """Returns the number of tokens that the loss of a step sums over, if no file fails."""
        return int(self.lengths.supervised[np.concatenate(self.packs(step))].sum(dtype=np.int64))

    def frames(self, step: int, stream: str) -> int:
        """Returns the number of frames of a stream that a step aligns with a teacher, if no file fails."""
        return int(self.lengths.frames[stream][np.concatenate(self.packs(step))].sum(dtype=np.int64))

    def packs_of_epoch(self, epoch: int) -> EpochPacks:
        """Returns all packs of an epoch. The last few epochs asked for are kept in memory."""
        with self._lock:
            if epoch not in self._epochs:
                self._epochs[epoch] = pack_epoch(
                    self._order(epoch),
                    self.lengths,
                    self.cost,
                    self.stage.global_batch_size,
                    self.stage.max_tokens_per_batch,
                )
                while len(self._epochs) > EPOCHS_KEPT:
                    del self._epochs[next(iter(self._epochs))]
            return self._epochs[epoch]

    def identity(self) -> dict[str, Any]:
        """Returns everything that determines the order of the stage, as JSON values; see :func:`explain_difference`."""
        return {
            "files": [vars(source) for source in self.sources],
            "samples": self.data,
            "lengths": self.lengths.fingerprint,
            "seed": self.seed,
            "order": self.stage.order,
            "global_batch_size": self.stage.global_batch_size,
        }

    def _order(self, epoch: int) -> np.ndarray:
        """Returns the table indices in the order of an epoch. Shape: (samples_per_epoch,)"""
        taken = self._taken(epoch)
        order = epoch_order(
            self.stage.order,
            self._word_lengths if taken is None else self._word_lengths[taken],
            fingerprint=self.data,
            seed=self.seed,
            epoch=epoch,
            global_batch_size=self.stage.global_batch_size,
        )
        return order if taken is None else taken[order]

    def _taken(self, epoch: int) -> np.ndarray | None:
        """Returns the table indices that an epoch takes by the weights of the sources; None: each index once."""
        if all(source.weight == 1 for source in self.sources):
            return None
        taken, begin = [], 0
        for number, source in enumerate(self.sources):
            indices = np.arange(begin, begin + source.count)
            copies = int(source.weight)
            drawn = generator(self.data, self.seed, epoch, "source", number).permutation(indices)
            taken += [indices] * copies + [np.sort(drawn[: source.per_epoch - copies * source.count])]
            begin += source.count
        return np.concatenate(taken)


def explain_difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Returns the first difference between the data of two plans (:meth:`StagePlan.identity`) in words, or None."""
    if old == new:
        return None
    if len(old["files"]) != len(new["files"]):
        return f"there were {len(old['files'])} annotation files and are {len(new['files'])}"
    for before, now in zip(old["files"], new["files"], strict=True):
        if before["content"] != now["content"]:
            return f"the content of {now['path']} differs"
    for before, now in zip(old["files"], new["files"], strict=True):
        if before["weight"] != now["weight"]:
            return f"the weight of {now['path']} was {before['weight']:g} and is {now['weight']:g}"
    if old["samples"] != new["samples"]:
        counts = [sum(file["count"] for file in identity["files"]) for identity in (old, new)]
        return f"other samples are excluded: {counts[0]} were left to train on and {counts[1]} are now"
    for key in ("seed", "order", "global_batch_size"):
        if old[key] != new[key]:
            return f"{key} was {old[key]} and is {new[key]}"
    if old["lengths"] != new["lengths"]:
        return (
            "the samples have other tokens: the tokenizer, the prompt format or a length limit differs, or a media "
            "file was replaced"
        )
    return None


def share(costs: np.ndarray, world: int) -> list[list[int | None]]:
    """Share out the packs of a step over the ranks: the same number of packs for each, of about the same cost.

    Packs of similar cost have the same position on all ranks, because sharded ranks wait for each other in every pack.
    Missing packs are replaced by dummies (None), at the end.

    Args:
        costs: (P,) cost of each pack.
        world: number of ranks.

    Returns: the pack numbers of each rank.
    """
    costliest_first = np.argsort(-np.asarray(costs), kind="stable").tolist()
    shares: list[list[int | None]] = [[] for _ in range(world)]
    loads = [0.0] * world
    for start in range(0, len(costliest_first), world):
        row = costliest_first[start : start + world]
        lightest_first = sorted(range(world), key=lambda rank: (loads[rank], rank))
        for place, rank in enumerate(lightest_first):
            number = row[place] if place < len(row) else None
            shares[rank].append(number)
            loads[rank] += float(costs[number]) if number is not None else 0.0
    return shares
