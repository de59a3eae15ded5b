"""Which samples stand in which optimizer step of a stage: a pure function of data, recipe and seed."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vidtune.data.annotations import AnnotationTable
from vidtune.processing.order import epoch_order
from vidtune.recipe import Stage


@dataclass(frozen=True, eq=False)
class StepPlan:
    """The order of a stage.

    Args:
        table: what is trained on, exclusions of the data check taken out.
        stage: gives rule, batch size and length.
        seed: the recipe's.
    """

    table: AnnotationTable
    stage: Stage
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """The last step of an epoch takes what is left, as transformers' Trainer does."""
        return math.ceil(len(self.table) / self.stage.global_batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the stage."""
        return self.stage.max_steps or math.ceil(self.stage.epochs * self.steps_per_epoch)

    def epoch(self, step: int) -> int:
        """The epoch that a step (from 0) falls into."""
        return step // self.steps_per_epoch

    def samples(self, step: int) -> np.ndarray:
        """Table indices of a step's samples."""
        first = step % self.steps_per_epoch * self.stage.global_batch_size
        return self._order(self.epoch(step))[first : first + self.stage.global_batch_size]

    def samples_until(self, step: int) -> int:
        """How many samples the steps before this one held."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * len(self.table) + min(steps * self.stage.global_batch_size, len(self.table))

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = epoch_order(
                self.stage.order,
                self.table.word_lengths,
                fingerprint=self.table.fingerprint,
                seed=self.seed,
                epoch=epoch,
                global_batch_size=self.stage.global_batch_size,
            )
        return self._orders[epoch]

    @cached_property
    def _orders(self) -> dict[int, np.ndarray]:
        return {}
