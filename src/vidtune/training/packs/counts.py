"""Counts of the packs of a step: on one rank, on all ranks, and since the last log line.

The ranks exchange these numbers once per step, together with everything else they have to know about each other: a stop
request, a failure, new bad files, and the norms of their gradients.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vidtune.processing.batch import Batch
from vidtune.training.forward import PackLosses
from vidtune.training.log import peak_memory_gib
from vidtune.training.ranks.group import Ranks
from vidtune.training.setup.exclusions import Excluded

SUMMED = ("loss", "samples", "tokens", "supervised", "flops")


@dataclass
class StepCounts:
    """Counts of the packs of one rank in a step.

    Args:
        streams: names of the distilled streams, S.
        losses: loss terms of each pack, see :class:`PackLosses`.
        frames: number of aligned frames of each of ``streams``.
        ids: ids of the samples of each pack.
        tokens, supervised: number of tokens, and of tokens that the loss sums over.
        flops: floating-point operations; 0 if they are not counted.
        excluded: samples that were left out.
        error: the error that stopped this rank, or None.
    """

    streams: tuple[str, ...] = ()
    losses: list[Tensor] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    ids: list[list[str]] = field(default_factory=list)
    tokens: int = 0
    supervised: int = 0
    flops: float = 0.0
    excluded: list[Excluded] = field(default_factory=list)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.frames = [0 for _ in self.streams]

    def add(self, batch: Batch, loss: PackLosses, supervised: int, flops: float) -> None:
        """Add the numbers of a pack that was trained on."""
        self.losses.append(loss.terms)
        self.frames = [before + more for before, more in zip(self.frames, loss.frames, strict=True)]
        self.ids.append(batch.ids)
        self.tokens += batch.num_tokens
        self.supervised += supervised
        self.flops += flops


class StepTotals:
    """Numbers of a step on all ranks.

    Args:
        table: (world, names + components) float64, one row per rank: the named numbers, then the squared gradient norm
            of each component.
        names: names of the first columns.
        norm_is_shared: True if each rank holds a part of the gradient, False if each holds all of it.
    """

    def __init__(self, table: Tensor, names: Sequence[str], norm_is_shared: bool) -> None:
        self._columns = {name: table[:, place] for place, name in enumerate(names)}
        squares = table[:, len(names) :]
        self.is_finite = bool(torch.isfinite(table).all())
        self._squares = squares.sum(0) if norm_is_shared else squares[0]

    def sum(self, name: str) -> float:
        """Returns the sum of a number over all ranks."""
        return float(self._columns[name].sum())

    def of_ranks(self, name: str) -> Tensor:
        """Returns a number of each rank. Shape: (world,)"""
        return self._columns[name]

    def norms(self, factor: float) -> list[float]:
        """Returns the gradient norm of each component, and of all together, times ``factor``."""
        squares = self._squares.tolist()
        return [factor * math.sqrt(square) for square in [*squares, math.fsum(squares)]]


def exchange(
    ranks: Ranks, counts: StepCounts, norms: Tensor, norm_is_shared: bool, waited: float, stopping: bool
) -> StepTotals:
    """Exchange the counts of a step with the other ranks. Returns the numbers of all ranks.

    Args:
        norms: gradient norm of each component, of the part on this rank. Shape: (components,)
        norm_is_shared: see :class:`StepTotals`.
        waited: seconds this rank has waited for data since the run began.
        stopping: whether this rank was asked to stop.
    """
    terms = ["loss", *(aligned(stream) for stream in counts.streams)]
    losses = torch.stack(counts.losses).sum(0) if counts.losses else norms.new_zeros(len(terms))
    found = torch.cat([losses.to(norms), norms]).tolist()
    numbers: dict[str, float] = {
        **dict(zip(terms, found, strict=False)),
        **dict(zip(map(frames_of, counts.streams), counts.frames, strict=True)),
        "samples": sum(len(ids) for ids in counts.ids),
        "tokens": counts.tokens,
        "supervised": counts.supervised,
        "flops": counts.flops,
        "excluded": len(counts.excluded),
        "stopping": stopping,
        "failed": counts.error is not None,
        "waited": waited,
        "memory": peak_memory_gib(ranks.device),
    }
    squares = [part**2 for part in found[len(terms) :]]
    table = ranks.table(torch.tensor([*numbers.values(), *squares], dtype=torch.float64))
    return StepTotals(table, list(numbers), norm_is_shared)


def aligned(stream: str) -> str:
    """Returns the name of the alignment loss of a stream, which is also the name of its head."""
    return f"alignments.{stream}"


def frames_of(stream: str) -> str:
    """Returns the name of the number of frames that the alignment loss of a stream sums over."""
    return f"frames.{stream}"


class Window:
    """Sums over the steps since the last log line. A step checkpoint keeps them, for the run that goes on from it.

    Args:
        peak: floating-point operations per second of the devices of all ranks; None if it is not known.
        streams: names of the distilled streams.
    """

    def __init__(self, peak: float | None, streams: Sequence[str] = ()) -> None:
        self._peak, self._streams = peak, tuple(streams)
        self._begin(torch.zeros(()))

    def _begin(self, waited: Tensor) -> None:
        self._started, self._waited = time.perf_counter(), waited
        terms = [name(stream) for stream in self._streams for name in (aligned, frames_of)]
        self._sums = dict.fromkeys((*SUMMED, *terms), 0.0)

    def state(self, totals: StepTotals) -> dict[str, float]:
        """Returns what was added since the last log line, as JSON values.

        Args:
            totals: numbers of the last step.
        """
        waited = float((totals.of_ranks("waited") - self._waited).max())
        return {**self._sums, "seconds": time.perf_counter() - self._started, "waited": waited}

    def resume(self, state: Mapping[str, float]) -> None:
        """Go on from the sums that a checkpoint kept; an empty state is that of a new window."""
        self._sums = {name: state.get(name, 0.0) for name in self._sums}
        self._started = time.perf_counter() - state.get("seconds", 0.0)
        self._waited = torch.tensor(-state.get("waited", 0.0))

    def add(self, totals: StepTotals) -> None:
        """Add the numbers of a step."""
        for name in self._sums:
            self._sums[name] += totals.sum(name)

    def line(self, totals: StepTotals) -> dict[str, Any]:
        """Returns the numbers for the log, see :mod:`vidtune.training.log`, and begins the next window.

        Args:
            totals: numbers of the last step.
        """
        seconds, waited = time.perf_counter() - self._started, totals.of_ranks("waited")
        sums = self._sums
        line: dict[str, Any] = {
            "loss": sums["loss"] / sums["supervised"] if sums["supervised"] else None,
            "samples": int(sums["samples"]),
            "tokens": int(sums["tokens"]),
            "supervised_tokens": int(sums["supervised"]),
            "tokens_per_second": sums["tokens"] / seconds,
            "data_wait": float((waited - self._waited).max()) / seconds,
            "memory_gib": float(totals.of_ranks("memory").max()),
            "seconds": seconds,
        }
        if self._streams:
            line["losses"] = {aligned(s): sums[aligned(s)] / max(sums[frames_of(s)], 1) for s in self._streams}
        if self._peak:
            line["mfu"] = sums["flops"] / seconds / self._peak
        self._begin(waited)
        return line
