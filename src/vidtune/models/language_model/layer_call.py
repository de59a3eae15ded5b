"""One forward call under a layer program: which tokens each layer sees, and what is added to them.

All of it is known before the call, from numbers on the CPU. It travels in the call as the keyword argument
``layer_call``, and the hooks of the decoder layers hold no state. So several threads may use one model, and gradient
checkpointing recomputes the same. A rule that looks at hidden states (dropping guided by attention) would choose in
:meth:`LayerCall.before`, where the hidden states and the next layer are at hand; how many tokens stay is known
beforehand there too.

Legend: L tokens of a call, D language-model width, M tokens of an item, K levels beside the embeddings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers import Cache

from vidtune.errors import UserError, foreign
from vidtune.models.language_model.layer_program import LayerProgram
from vidtune.processing.batch import on_device
from vidtune.registry import DROP_RULES


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
        stages: the tokens of each stage, one stage more than the program has boundaries.
        media: the media of the call.
    """

    program: LayerProgram
    stages: Sequence[LayerRange]
    media: Sequence[MediaTokens] = ()

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
        if not added and not any(
            len(stage.kept) < position_ids.shape[-1] or stage.shift.any() for stage in self.stages
        ):
            return {}
        stages = []
        for stage in self.stages:
            kept = on_device(stage.kept, device)
            positions = position_ids.index_select(-1, kept) - on_device(stage.shift, device)
            bounds = [0, *accumulate(stage.counts)]
            rotary = decoder.rotary_emb if stage.shift.any() else None
            stages.append(_RangeTensors(kept, on_device(stage.chosen, device), positions, bounds, rotary))
        return {"layer_call": LayerCall(self.program, stages, added)}

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

    def places_before(self, targets: np.ndarray) -> np.ndarray:
        """Places in the last stage of the tokens before these tokens, which are positions in the call and are kept."""
        return np.searchsorted(self.stages[-1].kept, targets) - 1

    def spread(self, hidden: Tensor, layers: int) -> Tensor:
        """Hidden states after so many layers, at the places of all tokens of the call; zero where one was dropped.

        Shape: (1, tokens of the stage, D) -> (1, L, D)
        """
        stage, length = self.stages[self.program.stage_of(layers - 1)], len(self.stages[0].kept)
        if hidden.shape[1] == length:
            return hidden
        return hidden.new_zeros(1, length, hidden.shape[2]).index_copy(1, on_device(stage.kept, hidden.device), hidden)


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
) -> LayerCallPlan:
    """What a program does in one forward call.

    Args:
        lengths: number of tokens of each sequence of the call; the sequences stand one after another.
        media: the media among these tokens; each item is in one call as a whole.
        dropped: for each stage, the tokens of each sequence that earlier calls dropped; None: there was no such call.

    Raises:
        UserError: a drop rule raises, or returns what is no choice of so many tokens; names the rule.
    """
    owners = np.repeat(np.arange(len(lengths)), lengths)
    kept = np.arange(len(owners))
    stages = [LayerRange(kept, kept, list(lengths), np.zeros_like(kept))]
    places = [item.places for item in media]
    for boundary in program.boundaries:
        gone = np.zeros(len(owners), bool)
        for drop in program.drops:
            for index, item in enumerate(media):
                count = max(1, int(len(item.places) * drop.keep))
                if drop.after == boundary and item.stream in drop.streams and count < len(places[index]):
                    gone[places[index]] = True
                    places[index] = places[index][_chosen(drop.rule, len(places[index]), count)]
                    gone[places[index]] = False
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


def _chosen(rule: str, tokens: int, count: int) -> np.ndarray:
    """Indices of the tokens that a drop rule keeps, checked. Shape: (count,)"""
    choose = DROP_RULES[rule]
    with foreign(f"drop rule {rule!r}"):
        kept = choose(tokens, count)
    if not isinstance(kept, np.ndarray) or kept.dtype.kind not in "iu" or kept.shape != (count,):
        found = f"{kept.dtype} of shape {kept.shape}" if isinstance(kept, np.ndarray) else type(kept).__name__
        raise UserError(f"drop rule {rule!r} returns {found}; expected an integer array of shape ({count},)")
    if kept[0] < 0 or kept[-1] >= tokens or (kept[1:] <= kept[:-1]).any():
        raise UserError(f"drop rule {rule!r} must return increasing indices from 0 to {tokens - 1}, each at most once")
    return kept


@dataclass(frozen=True)
class _RangeTensors:
    """A stage on the device of the model; ``rotary`` makes the position embeddings anew where positions moved."""

    kept: Tensor
    chosen: Tensor
    position_ids: Tensor
    cu_seqlens: list[int]
    rotary: Any = None


@dataclass(frozen=True)
class LayerCall:
    """What the decoder layers do in one forward call.

    Args:
        stages: the tokens of each stage.
        added: layer -> places (N,) and values (N, D) of what is added after it.
    """

    program: LayerProgram
    stages: Sequence[_RangeTensors]
    added: Mapping[int, tuple[Tensor, Tensor]]

    def before(self, layer: int, hidden: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Hidden states as a layer takes them; its other inputs, which are those of all tokens, are cut in place.

        Shape: (1, tokens of the layer before, D) -> (1, tokens of this layer, D)
        """
        if layer in self.added:
            places, values = self.added[layer]
            hidden = hidden.index_add(1, places, values[None].to(hidden.dtype))
        stage = self.stages[self.program.stage_of(layer)]
        if layer in self.program.boundaries:
            hidden = hidden.index_select(1, stage.chosen)
        if len(stage.kept) == len(self.stages[0].kept) and stage.rotary is None:
            return hidden
        if stage.rotary is not None:
            inputs["position_embeddings"] = stage.rotary(hidden, position_ids=stage.position_ids)
        elif inputs.get("position_embeddings") is not None:
            cut = partial(torch.index_select, dim=-2, index=stage.kept)
            inputs["position_embeddings"] = tree_map(cut, inputs["position_embeddings"])
        inputs["position_ids"] = stage.position_ids
        if inputs.get("cu_seqlens") is not None:
            inputs["cu_seqlens"] = stage.cu_seqlens
        return hidden


def install(program: LayerProgram, layers: nn.ModuleList, decoder: nn.Module) -> None:
    """Make decoder layers follow the ``layer_call`` of a forward call; a call without one is not changed.

    Raises:
        ValueError: the program moves positions, but those of the language model are not rotary.
    """
    if program.is_compact and not hasattr(decoder, "rotary_emb"):
        raise ValueError("layer_program: compact needs a language model with rotary positions; leave it out")
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(partial(_before, index), with_kwargs=True)


def _before(
    index: int, layer: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    call, rest = inputs.get("layer_call"), {name: value for name, value in inputs.items() if name != "layer_call"}
    return args if call is None else (call.before(index, args[0], rest), *args[1:]), rest
