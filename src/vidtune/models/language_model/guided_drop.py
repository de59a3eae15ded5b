"""Dropping media tokens by attention: how many stay is known before a forward call, which ones is chosen in it.

After a layer with such a step, queries and keys of the next layer are computed for the tokens that are left. The weight
of a media token is how much the query tokens attend to it, as a mean over heads and over query tokens (softmax in
float32 over all tokens up to the query token). The rule chooses tokens of each item by these weights; as published,
those with the highest. Source: arXiv:2501.00574, section 3.3.

Query tokens:

- Evaluation mode: the last token of each sequence. When an answer is generated that is the last token of the whole
  prompt; tokens of the answer choose nothing.
- Training mode: the tokens before each supervised span. A sequence without one keeps all its tokens.

Many questions on a shared prefix: every question makes its own choice, by the last token of its own prompt, so that
its answer is the one that it gets alone. The prefix is therefore shared only up to the layer of the first choice. There
it is suspended (:class:`Suspension`), and each question takes what it keeps of the prefix through the later layers as
its own tokens (:class:`OpenPrefix`).

What was chosen is kept for the length of the call, so that gradient checkpointing recomputes the same.

Legend: T tokens of a sequence, P tokens of a prefix, M of an item, W model width, H heads, G key/value heads, D head
width, R query tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from vidtune.errors import UserError, errors_of
from vidtune.models.language_model.layer_program import GuidedRule, LayerProgram, chosen_indices
from vidtune.models.language_model.text_attention import CallInputs, attention_to, queries_and_keys
from vidtune.processing.batch import on_device
from vidtune.registry import DROP_RULES


@dataclass(frozen=True)
class GuidedItem:
    """A media item in a sequence, before the first choice.

    Args:
        stream: stream of the item.
        tokens: number of tokens of the whole item.
        places: increasing places of its tokens that are left, in the sequence.
        ranks: which of its tokens these are.
        levels: (K, M, W) to add after layers; None if there are none.
    """

    stream: str
    tokens: int
    places: np.ndarray
    ranks: np.ndarray
    levels: Tensor | None = None


@dataclass(frozen=True)
class GuidedSequence:
    """A sequence before the first choice.

    Args:
        pool: (T,) places of its tokens among the tokens of the prefix followed by those of the call.
        origins: (T,) places of its tokens in the whole sequence, before anything was dropped.
        items: its media.
        targets: each query token stands before one of these places; empty: there is no query token.
        dropped: for each stage from the first choice on, number of tokens that earlier calls dropped.
    """

    pool: np.ndarray
    origins: np.ndarray
    items: Sequence[GuidedItem]
    targets: np.ndarray
    dropped: Sequence[int]


@dataclass(frozen=True)
class OpenPrefix:
    """A prefix at the layer of the first choice.

    Args:
        length: number of its tokens before anything was dropped.
        kept: places of the P tokens that are left among these.
        items: its media.
        hidden: (1, P, W) hidden states.
        keys: (P, G, D) keys of the next layer.
        position_ids: (1, P) or (axes, 1, P) positions, not lowered by what was dropped.
        position_embeddings: what the next layer gets of the positions; None: nothing.
    """

    length: int
    kept: np.ndarray
    items: Sequence[GuidedItem]
    hidden: Tensor
    keys: Tensor
    position_ids: Tensor
    position_embeddings: Any


@dataclass
class SequenceState:
    """What is left of a sequence: places of its tokens, and in it the places of its items and targets."""

    index: Tensor
    origins: Tensor
    items: list[Tensor]
    ranks: list[Tensor]
    targets: Tensor


@dataclass(frozen=True)
class Chosen:
    """A stage after a choice.

    Args:
        gather: places of its tokens among those of the stage before; at the first choice, behind those of the prefix.
        origins: places of its tokens among those of prefix and call at the first choice.
        states: its sequences.
        position_ids: positions of its tokens.
        unmoved: the same, not lowered by what was dropped.
        position_embeddings: what its layers get of the positions.
    """

    gather: Tensor
    origins: Tensor
    states: list[SequenceState]
    position_ids: Tensor
    unmoved: Tensor
    position_embeddings: Any

    def on(self, device: torch.device) -> "Chosen":
        """The same on the device of a layer."""
        if self.gather.device == device:
            return self
        move = partial(torch.Tensor.to, device=device)
        states = [SequenceState(**tree_map(move, vars(state))) for state in self.states]
        gather, origins, position_ids, unmoved = map(move, (self.gather, self.origins, self.position_ids, self.unmoved))
        return Chosen(gather, origins, states, position_ids, unmoved, tree_map(move, self.position_embeddings))


@dataclass(frozen=True)
class GuidedDrops:
    """All drops of a forward call from its first choice on. For one call only.

    Args:
        program: the layer program.
        first: index of the first stage that is chosen.
        kept: places of the tokens of the stage before it among those of the call.
        sequences: the sequences of the call.
        prefix: what all of them continue; None: nothing.
        chosen: stage -> what was chosen; filled in the call.
    """

    program: LayerProgram
    first: int
    kept: np.ndarray
    sequences: Sequence[GuidedSequence]
    prefix: OpenPrefix | None = None
    chosen: dict[int, Chosen] = field(default_factory=dict)

    @property
    def counts(self) -> list[list[int]]:
        """For each stage from the first choice on, the number of tokens of each sequence."""
        left = [[len(item.places) for item in sequence.items] for sequence in self.sequences]
        totals, found = [len(sequence.pool) for sequence in self.sequences], []
        for boundary in self.program.boundaries[self.first - 1 :]:
            for number, sequence in enumerate(self.sequences):
                for item, steps in enumerate(self._steps(boundary, sequence, left[number])):
                    if steps:
                        totals[number] -= left[number][item] - steps[-1][1]
                        left[number][item] = steps[-1][1]
            found.append(list(totals))
        return found

    def _steps(self, boundary: int, sequence: GuidedSequence, left: Sequence[int]) -> list[list[tuple[str, int]]]:
        asks = len(sequence.targets) > 0
        return [
            self.program.drops_at(boundary, item.stream, item.tokens, count, asks)
            for item, count in zip(sequence.items, left, strict=True)
        ]

    def kept_of_call(self, stage: int) -> Tensor:
        """Places of the tokens of a stage among those of the call, which has no prefix; known after the call."""
        origins = self.chosen[stage].origins
        return on_device(self.kept, origins.device)[origins]

    def before(self, layer: int, module: nn.Module, call: CallInputs, rotary: Callable[..., Any] | None) -> Tensor:
        """Hidden states as a layer takes them; its other inputs are changed in place."""
        stage, hidden = self.program.stage_of(layer), call.hidden
        if layer in self.program.boundaries:
            if stage not in self.chosen:
                self.chosen[stage] = self._choose(stage, module, call, rotary)
            if stage == self.first and self.prefix is not None:
                hidden = torch.cat((self.prefix.hidden, hidden), 1)
            hidden = hidden.index_select(1, self.chosen[stage].gather)
        chosen, inputs = self.chosen[stage].on(hidden.device), call.inputs
        inputs["position_ids"] = chosen.position_ids
        if inputs.get("position_embeddings") is not None:
            inputs["position_embeddings"] = chosen.position_embeddings
        if inputs.get("cu_seqlens") is not None:
            ends = np.cumsum([0, *(len(state.index) for state in chosen.states)])
            inputs["cu_seqlens"] = ends.tolist()
        return hidden

    def add(self, layer: int, hidden: Tensor) -> Tensor:
        """Hidden states after a layer of a chosen stage, with the levels that are added there."""
        chosen = self.chosen[self.program.stage_of(layer - 1)].on(hidden.device)
        begin = 0
        for sequence, state in zip(self.sequences, chosen.states, strict=True):
            for item, places, ranks in zip(sequence.items, state.items, state.ranks, strict=True):
                layers = self.program.adds.get(item.stream, ())
                if layer in layers and item.levels is not None:
                    values = item.levels[layers.index(layer)].to(hidden.device).index_select(0, ranks)
                    hidden = hidden.index_add(1, begin + places, values[None].to(hidden.dtype))
            begin += len(state.index)
        return hidden

    def _choose(self, stage: int, module: nn.Module, call: CallInputs, rotary: Callable[..., Any] | None) -> Chosen:
        device, boundary = call.hidden.device, self.program.boundaries[stage - 1]
        if stage == self.first:
            states = [_begin(sequence, device) for sequence in self.sequences]
            unmoved, embeddings = call.position_ids, call.inputs.get("position_embeddings")
            if self.prefix is not None:
                unmoved = torch.cat((self.prefix.position_ids, unmoved), -1)
                embeddings = tree_map(
                    lambda one, other: torch.cat((one, other), -2), self.prefix.position_embeddings, embeddings
                )
        else:
            before = self.chosen[stage - 1].on(device)
            states, unmoved, embeddings = before.states, before.unmoved, before.position_embeddings
        steps = [
            self._steps(boundary, sequence, [len(places) for places in state.items])
            for sequence, state in zip(self.sequences, states, strict=True)
        ]
        attention = self._attention(stage, module, call, steps)
        left, shifts, begin = [], [], 0
        for number, (sequence, state) in enumerate(zip(self.sequences, states, strict=True)):
            weights = attention(state) if any(map(are_guided, steps[number])) else None
            new, index = _left(state, steps[number], weights)
            shifts.append(new.origins - torch.arange(len(index), device=device) + sequence.dropped[stage - self.first])
            left.append((index, new, begin))
            begin += len(index)
        gather = torch.cat([index for index, _, _ in left])
        unmoved = unmoved.index_select(-1, gather)
        positions = unmoved - torch.cat(shifts) if self.program.is_compact else unmoved
        if embeddings is not None and self.program.is_compact and rotary is not None:
            embeddings = rotary(call.hidden, position_ids=positions)
        elif embeddings is not None:
            embeddings = tree_map(lambda part: part.index_select(-2, gather), embeddings)
        origins = gather if stage == self.first else before.origins[gather]
        for index, new, start in left:
            new.index = torch.arange(start, start + len(index), device=device)
        return Chosen(gather, origins, [new for _, new, _ in left], positions, unmoved, embeddings)

    def _attention(
        self, stage: int, module: nn.Module, call: CallInputs, steps: Sequence[Sequence[Sequence[tuple[str, int]]]]
    ) -> Callable[[SequenceState], Tensor]:
        """Function that returns how much the query tokens of a sequence attend to each of its tokens, (T,)."""
        if not any(are_guided(item) for sequence in steps for item in sequence):
            return lambda state: state.origins
        if stage > self.first and call.inputs.get("position_embeddings") is not None:
            call.inputs["position_embeddings"] = self.chosen[stage - 1].on(call.hidden.device).position_embeddings
        cache = call.inputs.get("past_key_values")
        if cache is not None and cache.get_seq_length(self.program.boundaries[stage - 1]):
            raise UserError(
                "layer_program: media behind tokens of a cache are not chosen by attention; read both at once"
            )
        query, key, scale = queries_and_keys(module, call)
        prefix = self.prefix if stage == self.first else None
        length = 0 if prefix is None else len(prefix.kept)

        def of(state: SequenceState) -> Tensor:
            own = state.index[length:] - length
            keys = key[own] if prefix is None else torch.cat((prefix.keys, key[own]))
            rows = state.targets - 1
            return attention_to(query[own[rows - length]], keys, rows, scale)

        return of


@dataclass
class Suspension:
    """The end of a prefix at the layer of the first choice, which the questions make; the later layers see one token.

    Args:
        program: the layer program.
        first: index of the first stage that is chosen.
        kept: places of the tokens of the stage before it among those of the prefix.
        length: number of tokens of the prefix.
        items: its media.
        opened: the prefix; filled in the call.
    """

    program: LayerProgram
    first: int
    kept: np.ndarray
    length: int
    items: Sequence[GuidedItem]
    opened: OpenPrefix | None = None

    @property
    def counts(self) -> list[list[int]]:
        """No token of the prefix is shared in the later stages."""
        return [[0]] * (len(self.program.boundaries) + 1 - self.first)

    def before(self, layer: int, module: nn.Module, call: CallInputs, rotary: Callable[..., Any] | None) -> Tensor:
        """Hidden states as a layer takes them; its other inputs are changed in place."""
        hidden, inputs = call.hidden, call.inputs
        last = torch.tensor([len(self.kept) - 1], device=hidden.device)
        if self.program.stage_of(layer) == self.first and layer in self.program.boundaries:
            _, keys, _ = queries_and_keys(module, call)
            self.opened = OpenPrefix(
                self.length, self.kept, self.items, hidden, keys, call.position_ids, inputs.get("position_embeddings")
            )
            hidden = hidden.index_select(1, last)
        inputs["position_ids"] = call.position_ids.index_select(-1, last)
        if inputs.get("position_embeddings") is not None:
            inputs["position_embeddings"] = tree_map(
                lambda part: part.index_select(-2, last), inputs["position_embeddings"]
            )
        return hidden

    def add(self, layer: int, hidden: Tensor) -> Tensor:
        """The questions add levels to what they keep."""
        return hidden


def targets_of(supervised: np.ndarray) -> np.ndarray:
    """Places of the first token of every supervised span; the query tokens of training stand before them.

    Args:
        supervised: increasing indices of the supervised tokens in the labels without the first one.
    """
    return supervised[np.diff(supervised, prepend=-2) != 1] + 1


def are_guided(steps: Sequence[tuple[str, int]]) -> bool:
    """Whether one of the drops of an item chooses by attention."""
    return any(isinstance(DROP_RULES[rule], GuidedRule) for rule, _ in steps)


def _begin(sequence: GuidedSequence, device: torch.device) -> SequenceState:
    return SequenceState(
        on_device(sequence.pool, device),
        on_device(sequence.origins, device),
        [on_device(item.places, device) for item in sequence.items],
        [on_device(item.ranks, device) for item in sequence.items],
        on_device(sequence.targets, device),
    )


def _left(
    state: SequenceState, steps: Sequence[Sequence[tuple[str, int]]], weights: Tensor | None
) -> tuple[SequenceState, Tensor]:
    """A sequence after a choice, and the places of its tokens in the stage before."""
    device = state.index.device
    stays = torch.ones(len(state.index), dtype=torch.uint8, device=device)
    items, ranks, count = list(state.items), list(state.ranks), len(state.index)
    for number, each in enumerate(steps):
        for rule, kept in each:
            places = items[number]
            local = _indices(rule, weights, places, kept)
            count -= len(places) - kept
            stays[places] = 0
            items[number], ranks[number] = places[local], ranks[number][local]
            stays[items[number]] = 1
    order = torch.argsort(stays, descending=True, stable=True)[:count]
    before = torch.cat((stays.new_zeros(1, dtype=torch.long), stays.long().cumsum(0)))
    new = SequenceState(order, state.origins[order], [before[places] for places in items], ranks, before[state.targets])
    return new, state.index[order]


def _indices(rule: str, weights: Tensor | None, places: Tensor, kept: int) -> Tensor:
    """Indices of the tokens of an item that a rule keeps, checked. Shape: (kept,)"""
    choose = DROP_RULES[rule]
    if not isinstance(choose, GuidedRule):
        return on_device(chosen_indices(rule, len(places), kept), places.device)
    with errors_of(f"drop rule {rule!r}"):
        found = choose(cast(Tensor, weights)[places], kept)
    if not isinstance(found, Tensor) or found.dtype != torch.long or found.shape != (kept,):
        what = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UserError(f"drop rule {rule!r} returns {what}; expected int64 indices of shape ({kept},)")
    return found
