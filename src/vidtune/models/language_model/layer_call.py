"""The decoder layers in one forward call under a layer program, as :mod:`vidtune.models.language_model.call_plan` says.

What they do travels in the call as the keyword argument ``layer_call``, and the hooks of the layers hold no state. So
several threads may use one model, and gradient checkpointing recomputes the same.

Legend: L tokens of a call, D language-model width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from vidtune.errors import UserError
from vidtune.models.language_model.guided_drop import (
    GuidedDrops,
    Suspension,
)
from vidtune.models.language_model.layer_program import LayerProgram
from vidtune.models.language_model.text_attention import CallInputs


@dataclass(frozen=True)
class RangeTensors:
    """A stage on the device of the model; ``rotary`` makes the position embeddings anew where positions moved."""

    kept: Tensor
    chosen: Tensor
    position_ids: Tensor
    cu_seqlens: list[int]
    rotary: Any = None


@dataclass(frozen=True)
class LayerCall:
    """What the decoder layers do in one forward call. Each may stand on a device of its own.

    Args:
        stages: the tokens of each stage that is known.
        added: layer -> places (N,) and values (N, D) of what is added after it.
        guided: the other stages.
        position_ids: positions of all tokens.
        rotary: makes position embeddings of positions that were moved; None: none are moved.
    """

    program: LayerProgram
    stages: Sequence[RangeTensors]
    added: Mapping[int, tuple[Tensor, Tensor]]
    guided: GuidedDrops | Suspension | None
    position_ids: Tensor
    rotary: Any

    def before(
        self, layer: int, module: nn.Module, hidden: Tensor, args: tuple[Any, ...], inputs: dict[str, Any]
    ) -> Tensor:
        """Hidden states as a layer takes them; its other inputs, which are those of all tokens, are cut in place.

        Args:
            layer: number of layers before this one.
            module: the layer.
            args: further positional inputs of it.
            inputs: its inputs by name.

        Shape: (1, tokens of the layer before, D) -> (1, tokens of this layer, D)
        """
        if layer in self.added:
            places, values = self.added[layer]
            hidden = hidden.index_add(1, places.to(hidden.device), values[None].to(hidden))
        number = self.program.stage_of(layer)
        if self.guided is None or number < len(self.stages):
            stage = self.stages[number]
            if layer in self.program.boundaries:
                hidden = hidden.index_select(1, stage.chosen.to(hidden.device))
            self._cut(stage, hidden, inputs)
            return hidden
        if self.program.stage_of(layer - 1) >= len(self.stages):
            hidden = self.guided.add(layer, hidden)
        if number == len(self.stages) and layer in self.program.boundaries:
            self._cut(self.stages[-1], hidden, inputs)
        unmoved = self.position_ids.index_select(-1, self.stages[-1].kept).to(hidden.device)
        return self.guided.before(layer, module, CallInputs(hidden, args, inputs, unmoved), self.rotary)

    def _cut(self, stage: RangeTensors, hidden: Tensor, inputs: dict[str, Any]) -> None:
        """Make the inputs of all tokens those of a stage."""
        if len(stage.kept) == len(self.stages[0].kept) and stage.rotary is None:
            return
        position_ids = stage.position_ids.to(hidden.device)
        if stage.rotary is not None:
            inputs["position_embeddings"] = stage.rotary(hidden, position_ids=position_ids)
        elif inputs.get("position_embeddings") is not None:
            cut = partial(torch.index_select, dim=-2, index=stage.kept.to(hidden.device))
            inputs["position_embeddings"] = tree_map(cut, inputs["position_embeddings"])
        inputs["position_ids"] = position_ids
        if inputs.get("cu_seqlens") is not None:
            inputs["cu_seqlens"] = stage.cu_seqlens


def install(program: LayerProgram, layers: nn.ModuleList, decoder: nn.Module) -> None:
    """Make decoder layers follow the ``layer_call`` of a forward call; a call without one is not changed.

    Raises:
        UserError: the program moves positions, but those of the language model are not rotary.
    """
    if program.is_compact and not hasattr(decoder, "rotary_emb"):
        raise UserError("layer_program: compact needs a language model with rotary positions; leave it out")
    for index, layer in enumerate(layers):
        if not any(getattr(hook, "func", None) is _before for hook in layer._forward_pre_hooks.values()):
            layer.register_forward_pre_hook(partial(_before, index), with_kwargs=True)


def _before(
    index: int, layer: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    call, rest = inputs.get("layer_call"), {name: value for name, value in inputs.items() if name != "layer_call"}
    return args if call is None else (call.before(index, layer, args[0], args[1:], rest), *args[1:]), rest
