"""Plan of one forward call under a layer program: which tokens each layer sees, and what is added to them.

It is known before the call, from numbers on the CPU, up to the first rule that looks at hidden states; from there on
only how many tokens stay is known, see :mod:`vidtune.models.language_model.guided_drop`.

Legend: L tokens of a call, D language-model width, M tokens of an item, K levels beside the embeddings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache

from vidtune.errors import UserError
from vidtune.models.language_model.guided_drop import (
    GuidedDrops,
    GuidedItem,
    GuidedSequence,
    OpenPrefix,
    Suspension,
    are_guided,
)
from vidtune.models.language_model.layer_call import LayerCall, RangeTensors
from vidtune.models.language_model.layer_program import LayerProgram, chosen_indices
from vidtune.processing.batch import on_device


@dataclass(frozen=True)
class MediaTokens:
    """Tokens of one media item in a call.

    Args:
        stream: stream of the item.
        places: increasing positions of its tokens among the tokens of the call.
        levels: (K, M, D) to add after layers; None if the connector returns embeddings only.
    """

    stream: str
    places: np.ndarray
    levels: Tensor | None = None


def split_levels(block: Tensor) -> tuple[Tensor, Tensor | None]:
    """Embeddings (M, D) of an item, and the levels to add, (K, M, D); None if the connector returned (M, D) only."""
    return (block, None) if block.dim() == 2 else (block[0], block[1:])


@dataclass(frozen=True)
class LayerRange:
    """The tokens that a range of layers sees in a call.

    Args:
        kept: positions of these tokens among the L tokens of the call.
        chosen: positions of these tokens among those of the stage before.
        counts: number of tokens of each sequence.
        shift: how far the position of each token moves down.
    """

    kept: np.ndarray
    chosen: np.ndarray
    counts: list[int]
    shift: np.ndarray


@dataclass(frozen=True)
class LayerCallPlan:
    """What a program does in one forward call.

    Args:
        program: the program.
        stages: the tokens of each stage that is known before the call; without a choice by attention one stage more
            than the program has boundaries.
        media: the media of the call.
        guided: the other stages, whose tokens are chosen in the call; None: there are none.
    """

    program: LayerProgram
    stages: Sequence[LayerRange]
    media: Sequence[MediaTokens] = ()
    guided: GuidedDrops | Suspension | None = None

    @property
    def counts(self) -> list[list[int]]:
        """For each stage of the program, the number of tokens of each sequence."""
        return [*(stage.counts for stage in self.stages), *(self.guided.counts if self.guided else ())]

    def mean_tokens(self, power: int = 1) -> float:
        """Mean over the layers of the number of tokens, or of the sum of a power of their numbers by sequence."""
        return self.program.mean_over_layers([sum(count**power for count in counts) for counts in self.counts])

    def inputs(self, decoder: nn.Module, position_ids: Tensor) -> dict[str, Any]:
        """Keyword argument of the language model for this call; none if all tokens stay as they are.

        Args:
            decoder: decoder of the language model.
            position_ids: (1, L) or (axes, 1, L) positions of the tokens.

        Raises:
            UserError: a connector returns another number of levels than are to be added.
            ValueError: compact positions have several axes.
        """
        if self.program.is_compact and position_ids.dim() > 2:
            raise ValueError("layer_program: compact lowers positions of one axis; leave it out where they have more")
        device = position_ids.device
        added = self._added(device)
        if (
            self.guided is None
            and not added
            and not any(len(stage.kept) < position_ids.shape[-1] or stage.shift.any() for stage in self.stages)
        ):
            return {}
        stages = []
        for stage in self.stages:
            kept = on_device(stage.kept, device)
            positions = position_ids.index_select(-1, kept) - on_device(stage.shift, device)
            bounds = [0, *accumulate(stage.counts)]
            rotary = decoder.rotary_emb if stage.shift.any() else None
            stages.append(RangeTensors(kept, on_device(stage.chosen, device), positions, bounds, rotary))
        turns = getattr(decoder, "rotary_emb", None) if self.program.is_compact else None
        return {"layer_call": LayerCall(self.program, stages, added, self.guided, position_ids, turns)}

    def _added(self, device: torch.device) -> dict[int, tuple[Tensor, Tensor]]:
        """Layer -> places (N,) and values (N, D) of all that is added after it."""
        found: dict[int, list[tuple[np.ndarray, Tensor]]] = {}
        for item in self.media:
            layers = self.program.adds.get(item.stream, ())
            levels = () if item.levels is None else item.levels
            if len(levels) != len(layers):
                raise UserError(
                    f"stream {item.stream!r}: its connector returns {len(levels)} levels to add, but the layer "
                    f"program adds {len(layers)}; correct the connector or its add step in layer_program"
                )
            for level, layer in enumerate(layers):
                if self.program.stage_of(layer - 1) >= len(self.stages):
                    continue  # added where the tokens are chosen
                kept = self.stages[self.program.stage_of(layer - 1)].kept
                there = np.flatnonzero(np.isin(item.places, kept))
                values = levels[level].index_select(0, on_device(there, levels[level].device))
                found.setdefault(layer, []).append((np.searchsorted(kept, item.places[there]), values))
        return {
            layer: (
                on_device(np.concatenate([places for places, _ in parts]), device),
                torch.cat([x for _, x in parts]),
            )
            for layer, parts in found.items()
        }

    def kept(self, stage: int, device: torch.device) -> Tensor:
        """Positions of the tokens of a stage among those of the call; what is chosen in the call is known after it."""
        if stage < len(self.stages):
            return on_device(self.stages[stage].kept, device)
        return cast(GuidedDrops, self.guided).kept_of_call(stage)

    def places_before(self, targets: np.ndarray, device: torch.device) -> Tensor:
        """Places in the last stage of the tokens before these tokens, which are positions in the call and are kept."""
        if self.guided is None:
            return on_device(np.searchsorted(self.stages[-1].kept, targets) - 1, device)
        return torch.searchsorted(self.kept(len(self.program.boundaries), device), on_device(targets, device)) - 1

    def spread(self, hidden: Tensor, layers: int) -> Tensor:
        """Hidden states after so many layers, at the places of all tokens of the call; zero where one was dropped.

        Shape: (1, tokens of the stage, D) -> (1, L, D)
        """
        length = len(self.stages[0].kept)
        if hidden.shape[1] == length:
            return hidden
        kept = self.kept(self.program.stage_of(layers - 1), hidden.device)
        return hidden.new_zeros(1, length, hidden.shape[2]).index_copy(1, kept, hidden)


def dropped_in_cache(program: LayerProgram, cache: Cache | None) -> list[list[int]] | None:
    """For each stage, the tokens that earlier calls dropped of the one sequence in a cache; None without a cache."""
    if cache is None or not program:
        return None
    first = cache.get_seq_length(0)
    return [[first - cache.get_seq_length(layer)] for layer in (0, *program.boundaries)]


def plan_call(
    program: LayerProgram,
    lengths: Sequence[int],
    media: Sequence[MediaTokens] = (),
    dropped: Sequence[Sequence[int]] | None = None,
    *,
    targets: np.ndarray | None = None,
    prefix: OpenPrefix | None = None,
    suspend: bool = False,
) -> LayerCallPlan:
    """What a program does in one forward call. A plan with a choice by attention is for one call only.

    Args:
        lengths: number of tokens of each sequence of the call; the sequences stand one after another.
        media: the media among these tokens; each item is in one call as a whole.
        dropped: for each stage, the tokens of each sequence that earlier calls dropped; None: there was no such call.
        targets: the tokens that choose by attention stand before these positions in the call, see
            :mod:`vidtune.models.language_model.guided_drop`; None: the last token of each sequence chooses.
        prefix: what every sequence continues, if it was suspended where its tokens are chosen.
        suspend: later calls continue the one sequence of this call; they choose by attention what stays of it.

    Raises:
        UserError: a drop rule raises, or returns what is no choice of so many tokens; names the rule.
    """
    owners = np.repeat(np.arange(len(lengths)), lengths)
    asked = _per_sequence(np.cumsum(lengths), targets)
    kept = np.arange(len(owners))
    stages = [LayerRange(kept, kept, list(lengths), np.zeros_like(kept))]
    ranks = [np.arange(len(item.places)) for item in media]
    for boundary in program.boundaries:
        steps = [
            program.drops_at(boundary, item.stream, len(item.places), len(left), len(asked[owners[item.places[0]]]) > 0)
            for item, left in zip(media, ranks, strict=True)
        ]
        at_choice = boundary == program.guided_after if suspend or prefix is not None else any(map(are_guided, steps))
        if at_choice:
            found = _Left(program, stages, media, ranks, lengths)
            guided = found.suspension() if suspend else found.drops(asked, dropped, prefix)
            return LayerCallPlan(program, stages, media, guided)
        gone = np.zeros(len(owners), bool)
        for index, (item, each) in enumerate(zip(media, steps, strict=True)):
            gone[item.places[ranks[index]]] = bool(each)
            for rule, count in each:
                ranks[index] = ranks[index][chosen_indices(rule, len(ranks[index]), count)]
            gone[item.places[ranks[index]]] = False
        chosen = np.flatnonzero(~gone[kept])
        kept = kept[chosen]
        counts = np.bincount(owners[kept], minlength=len(lengths))
        shift = np.zeros_like(kept)
        if program.is_compact:
            missing = np.cumsum(lengths) - np.cumsum(counts) - (np.asarray(lengths) - counts)  # of earlier sequences
            if dropped is not None:
                missing = missing - np.asarray(dropped[len(stages)])
            shift = kept - np.arange(len(kept)) - missing[owners[kept]]
        stages.append(LayerRange(kept, chosen, counts.tolist(), shift))
    return LayerCallPlan(program, stages, media)


def _per_sequence(ends: np.ndarray, targets: np.ndarray | None) -> list[np.ndarray]:
    """The targets of each sequence; where none are given, its end."""
    if targets is None:
        return [np.array([end]) for end in ends]
    return np.split(targets, np.searchsorted(targets, ends[:-1]))


@dataclass(frozen=True)
class _Left:
    """What is left of a call at the layer of the first choice.

    Args:
        stages: the stages that are known.
        ranks: for each medium, which of its tokens are left.
        lengths: number of tokens of each sequence.
    """

    program: LayerProgram
    stages: Sequence[LayerRange]
    media: Sequence[MediaTokens]
    ranks: Sequence[np.ndarray]
    lengths: Sequence[int]

    @property
    def kept(self) -> np.ndarray:
        return self.stages[-1].kept

    def suspension(self) -> Suspension:
        """What ends the one sequence of the call here."""
        items = self._items(0, sum(self.lengths), 0, 0)
        return Suspension(self.program, len(self.stages), self.kept, sum(self.lengths), items)

    def drops(
        self, asked: Sequence[np.ndarray], dropped: Sequence[Sequence[int]] | None, prefix: OpenPrefix | None
    ) -> GuidedDrops:
        """What is dropped from here on.

        Args:
            asked: targets of each sequence.
        """
        first, shared, sequences, end = len(self.stages), 0 if prefix is None else len(prefix.kept), [], 0
        rest = len(self.program.boundaries) + 1 - first
        for number, length in enumerate(self.lengths):
            begin, end = end, end + length
            low, high = np.searchsorted(self.kept, (begin, end))
            pool, origins, items = shared + np.arange(low, high), self.kept[low:high] - begin, []
            if prefix is not None:
                pool = np.concatenate((np.arange(shared), pool))
                origins, items = np.concatenate((prefix.kept, prefix.length + origins)), list(prefix.items)
            targets = shared + np.searchsorted(self.kept, asked[number]) - low
            items += self._items(begin, end, low, shared)
            gone = [0] * rest if dropped is None or prefix is not None else [each[number] for each in dropped[first:]]
            sequences.append(GuidedSequence(pool, origins, items, targets, gone))
        return GuidedDrops(self.program, first, self.kept, sequences, prefix)

    def _items(self, begin: int, end: int, low: int, shared: int) -> list[GuidedItem]:
        """The media between two positions of the call, with their places in a sequence that begins there.

        Args:
            low: place in the last stage where the sequence begins.
            shared: number of tokens of the prefix before it.
        """
        return [
            GuidedItem(
                item.stream,
                len(item.places),
                shared + np.searchsorted(self.kept, item.places[ranks]) - low,
                ranks,
                item.levels,
            )
            for item, ranks in zip(self.media, self.ranks, strict=True)
            if begin <= item.places[0] < end
        ]
