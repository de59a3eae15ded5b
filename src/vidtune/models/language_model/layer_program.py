"""Layer program: what happens to the tokens of media between the decoder layers of the language model.

A program is a list of steps, plain dicts in the config of a model:

- ``{"after": 4, "drop": ["video"], "keep": 0.5}``: from there on, keep this share of the tokens of every item of these
  streams (at least one). ``rule`` names the registered rule that chooses them ("uniform"). With ``compact: true`` later
  tokens are lowered in position by what was dropped before them; else every token keeps its position. Source:
  arXiv:2501.00574, section 3.3.
- ``{"after": 18, "drop": ["video"], "keep": 0.25, "rule": "attention"}``: the tokens that the text attends to most in
  the next layer, see :mod:`vidtune.models.language_model.guided_drop`.
- ``{"after": [1, 2, 3], "add": "video"}``: the connector of the stream returns levels (1 + K, M, D); level j is added
  to the hidden states at the item's positions after the j-th of these layers. Source: DeepStack (arXiv:2406.04334).

``after`` counts layers from 1. At one layer, levels are added before tokens are dropped. How a program is run in a
forward call: :mod:`vidtune.models.language_model.call_plan`.

Legend: M tokens of an item, K levels beside the embeddings, D language-model width.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from vidtune.errors import UserError, errors_of
from vidtune.registry import DROP_RULES


@dataclass(frozen=True)
class GuidedRule:
    """A drop rule that sees how much the text attends to each token of an item.

    Args:
        choose: weights (M,) float32 and number to keep -> increasing indices of those that are kept, on their device.
    """

    choose: Callable[[Tensor, int], Tensor]

    def __call__(self, weights: Tensor, kept: int) -> Tensor:
        return self.choose(weights, kept)


DropRule = Callable[[int, int], np.ndarray] | GuidedRule
"""Number of tokens of an item, number to keep -> increasing indices of those that are kept. Or :class:`GuidedRule`."""


def uniform(tokens: int, kept: int) -> np.ndarray:
    """Indices at equal distances, rounded down; of more than one the first and the last token are kept."""
    return torch.linspace(0, tokens - 1, kept, dtype=torch.long).numpy()


def _highest(weights: Tensor, kept: int) -> Tensor:
    return weights.topk(kept).indices.sort().values


attention = GuidedRule(_highest)
"""The tokens with the highest weights. Source: arXiv:2501.00574, section 3.3."""

PARTS = {name: f"{__name__}:{name}" for name in ("uniform", "attention")}
"""Drop rules of this package, as :data:`vidtune.registry.DROP_RULES` finds them."""


@dataclass(frozen=True)
class Drop:
    """A step that drops tokens; see the top of this file."""

    after: int
    streams: tuple[str, ...]
    keep: float
    rule: str = "uniform"
    compact: bool = False

    @property
    def is_guided(self) -> bool:
        """Whether the rule chooses by attention, so that the choice is made in the forward call."""
        return isinstance(DROP_RULES[self.rule], GuidedRule)


@dataclass(frozen=True)
class LayerProgram:
    """A program in a form to run.

    Args:
        drops: steps that drop tokens, by layer.
        adds: stream -> the layers after which its levels are added.
        num_layers: number of decoder layers.
    """

    drops: tuple[Drop, ...] = ()
    adds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    num_layers: int = 1

    @classmethod
    def parse(cls, steps: Sequence[Mapping[str, Any]], streams: Sequence[str], num_layers: int) -> "LayerProgram":
        """The program of a config.

        Raises:
            ValueError: a step that cannot be read, or a stream, rule or layer that does not exist.
        """
        drops: list[Drop] = []
        adds: dict[str, tuple[int, ...]] = {}
        for number, given in enumerate(steps):
            step, where = dict(given), f"layer_program[{number}]"
            layers = _listed(step.pop("after", []))
            named = [step.pop("add")] if "add" in step else _listed(step.pop("drop", []))
            if not named or not all(isinstance(name, str) and name in streams for name in named):
                raise ValueError(f"{where}: drop or add must name streams of {', '.join(sorted(streams))}")
            if not layers or not all(type(layer) is int and 0 < layer < num_layers for layer in layers):
                raise ValueError(f"{where}: after is {given.get('after')}; layers count from 1 to {num_layers - 1}")
            if "add" in given and named[0] in adds:
                raise ValueError(f"{where}: a second add of stream {named[0]!r}; name all its layers in one step")
            if "add" in given:
                adds[named[0]] = tuple(layers)
            else:
                drops += [_drop(where, layer, named, step) for layer in layers]
            if step:
                raise ValueError(f"{where}: unknown key {next(iter(step))!r}")
        if len({drop.compact for drop in drops}) > 1:
            raise ValueError("layer_program: either all drops are compact or none is")
        return cls(tuple(sorted(drops, key=lambda drop: drop.after)), adds, num_layers)

    def __bool__(self) -> bool:
        return bool(self.drops or self.adds)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The program as steps, in one way of writing: equal programs give equal steps."""
        drops = [
            {"after": drop.after, "drop": sorted(drop.streams), "keep": drop.keep, "rule": drop.rule}
            | ({"compact": True} if drop.compact else {})
            for drop in self.drops
        ]
        return [*drops, *({"after": list(layers), "add": stream} for stream, layers in sorted(self.adds.items()))]

    @property
    def is_compact(self) -> bool:
        """Whether positions are lowered by what was dropped before."""
        return any(drop.compact for drop in self.drops)

    @property
    def boundaries(self) -> list[int]:
        """Numbers of layers after which tokens are dropped. Between two boundaries all layers see the same tokens."""
        return sorted({drop.after for drop in self.drops})

    @property
    def guided_after(self) -> int | None:
        """The first layer after which a rule chooses by attention; None: there is none."""
        return next((drop.after for drop in self.drops if drop.is_guided), None)

    def of_streams(self, streams: Collection[str]) -> "LayerProgram":
        """What the program does where only these streams have media."""
        kept = (replace(drop, streams=tuple(s for s in drop.streams if s in streams)) for drop in self.drops)
        adds = {stream: layers for stream, layers in self.adds.items() if stream in streams}
        return LayerProgram(tuple(drop for drop in kept if drop.streams), adds, self.num_layers)

    def drops_at(self, layer: int, stream: str, tokens: int, left: int, guided: bool = True) -> list[tuple[str, int]]:
        """Rules that drop tokens of an item after a layer, in order, each with the number of tokens that it keeps.

        Args:
            tokens: number of tokens of the whole item.
            left: number of them that are left before.
            guided: False leaves out rules that choose by attention.
        """
        found = []
        for drop in self.drops:
            count = max(1, int(tokens * drop.keep))
            if drop.after != layer or stream not in drop.streams or count >= left:
                continue
            if guided or not drop.is_guided:
                found.append((drop.rule, count))
                left = count
        return found

    def stage_of(self, layer: int) -> int:
        """Index of the stage of a layer, which counts from 0; a stage is a range of layers that see the same tokens."""
        return sum(layer >= boundary for boundary in self.boundaries)

    def mean_over_layers(self, values: Sequence[float]) -> float:
        """Mean over the decoder layers of a value of each stage, such as its number of tokens."""
        return sum(values[self.stage_of(layer)] for layer in range(self.num_layers)) / self.num_layers


def _drop(where: str, after: int, streams: Sequence[str], step: dict[str, Any]) -> Drop:
    """A step that drops tokens; takes its keys out of ``step``."""
    keep, rule = step.pop("keep", None), step.pop("rule", "uniform")
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
        raise ValueError(f"{where}: keep is {keep!r}; expected a share above 0, at most 1")
    if not isinstance(rule, str) or rule not in DROP_RULES:
        raise ValueError(f"{where}: unknown drop rule {rule!r}; known: {', '.join(DROP_RULES)}")
    compact = step.pop("compact", False)
    if not isinstance(compact, bool):
        raise ValueError(f"{where}: compact is {compact!r}; expected true or false")
    return Drop(after, tuple(streams), keep, rule, compact)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def chosen_indices(rule: str, tokens: int, count: int) -> np.ndarray:
    """Indices of the tokens that a drop rule keeps, checked. Shape: (count,)"""
    choose = cast(Callable[[int, int], np.ndarray], DROP_RULES[rule])
    with errors_of(f"drop rule {rule!r}"):
        kept = choose(tokens, count)
    if not isinstance(kept, np.ndarray) or kept.dtype.kind not in "iu" or kept.shape != (count,):
        found = f"{kept.dtype} of shape {kept.shape}" if isinstance(kept, np.ndarray) else type(kept).__name__
        raise UserError(f"drop rule {rule!r} returns {found}; expected an integer array of shape ({count},)")
    if kept[0] < 0 or kept[-1] >= tokens or (kept[1:] <= kept[:-1]).any():
        raise UserError(f"drop rule {rule!r} must return increasing indices from 0 to {tokens - 1}, each at most once")
    return kept
