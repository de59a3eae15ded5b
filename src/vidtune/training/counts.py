"""What the packs of a step came to: on one rank, on all of them, and since the last log line.

The ranks exchange these numbers once per step, together with everything else they have to know of each other: a stop
asked for on one of them, a failure, new bad files, and their part of the gradients' norms.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vidtune.processing.packing import Batch
from vidtune.training.exclusions import Excluded
from vidtune.training.log import peak_memory_gib
from vidtune.training.ranks import Ranks

NAMES = ("loss", "samples", "tokens", "supervised", "flops", "excluded", "stopping", "failed", "waited", "memory")


@dataclass
class StepCounts:
    """One rank's part of a step; ``losses`` and ``ids`` have one entry per pack.

    Args:
        flops: floating-point operations; 0 where they are not counted.
        excluded: samples left out.
        error: why the rank could not do its part.
    """

    losses: list[Tensor] = field(default_factory=list)
    ids: list[list[str]] = field(default_factory=list)
    tokens: int = 0
    supervised: int = 0
    flops: float = 0.0
    excluded: list[Excluded] = field(default_factory=list)
    error: Exception | None = None

    def add(self, batch: Batch, loss: Tensor, supervised: int, flops: float) -> None:
        """Count a pack that was trained on."""
        self.losses.append(loss)
        self.ids.append(batch.ids)
        self.tokens += batch.num_tokens
        self.supervised += supervised
        self.flops += flops


class StepTotals:
    """A step's numbers of all ranks.

    Args:
        table: (world, names and one squared norm per component), float64.
        norm_is_shared: the ranks hold parts of one gradient; otherwise each holds all of it.
    """

    def __init__(self, table: Tensor, norm_is_shared: bool) -> None:
        self._columns = {name: table[:, place] for place, name in enumerate(NAMES)}
        squares = table[:, len(NAMES) :]
        self.is_finite = bool(torch.isfinite(table).all())
        self._squares = squares.sum(0) if norm_is_shared else squares[0]

    def sum(self, name: str) -> float:
        """Over all ranks."""
        return float(self._columns[name].sum())

    def of_ranks(self, name: str) -> Tensor:
        """Of each rank. Shape: (world,)"""
        return self._columns[name]

    def norms(self, factor: float) -> list[float]:
        """Norm of each component's gradient times ``factor``, and that of all of them."""
        squares = self._squares.tolist()
        return [factor * math.sqrt(square) for square in [*squares, math.fsum(squares)]]


def exchange(
    ranks: Ranks, counts: StepCounts, norms: Tensor, norm_is_shared: bool, waited: float, stopping: bool
) -> StepTotals:
    """What this rank's step came to, for what all of them did.

    Args:
        norms: gradient norm of each component, of what this rank holds of it. Shape: (components,)
        waited: seconds this rank has waited for data since the run began.
        stopping: whether this rank was asked to stop.
    """
    loss = torch.stack(counts.losses).sum().reshape(1) if counts.losses else norms.new_zeros(1)
    loss, *parts = torch.cat([loss.to(norms), norms]).tolist()
    samples = sum(len(ids) for ids in counts.ids)
    numbers: Sequence[float] = (
        loss,
        samples,
        counts.tokens,
        counts.supervised,
        counts.flops,
        len(counts.excluded),
        stopping,
        counts.error is not None,
        waited,
        peak_memory_gib(ranks.device),
    )
    table = ranks.table(torch.tensor([*numbers, *(part**2 for part in parts)], dtype=torch.float64))
    return StepTotals(table, norm_is_shared)


class Window:
    """Sums over the steps since the last log line.

    Args:
        peak: floating-point operations per second of all ranks' devices together; None where it is not known.
    """

    def __init__(self, peak: float | None) -> None:
        self._peak = peak
        self._begin(torch.zeros(()))

    def _begin(self, waited: Tensor) -> None:
        self._started, self._waited = time.perf_counter(), waited
        self._sums = dict.fromkeys(("loss", "samples", "tokens", "supervised", "flops"), 0.0)

    def add(self, totals: StepTotals) -> None:
        """One more step."""
        for name in self._sums:
            self._sums[name] += totals.sum(name)

    def line(self, totals: StepTotals) -> dict[str, Any]:
        """The numbers for the log, see :mod:`vidtune.training.log`; the next window begins.

        Args:
            totals: of the last step.
        """
        seconds, waited = time.perf_counter() - self._started, totals.of_ranks("waited")
        sums = self._sums
        line = {
            "loss": sums["loss"] / max(sums["supervised"], 1),
            "samples": int(sums["samples"]),
            "tokens": int(sums["tokens"]),
            "supervised_tokens": int(sums["supervised"]),
            "tokens_per_second": sums["tokens"] / seconds,
            "data_wait": float((waited - self._waited).max()) / seconds,
            "memory_gib": float(totals.of_ranks("memory").max()),
            "seconds": seconds,
        }
        if self._peak:
            line["mfu"] = sums["flops"] / seconds / self._peak
        self._begin(waited)
        return line
