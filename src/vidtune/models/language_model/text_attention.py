"""Attention of chosen tokens to all tokens of their sequence, by the weights of a decoder layer that has not run yet.

Legend: T tokens of a sequence, W model width, H heads, G key/value heads, D head width, R query tokens.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vidtune.errors import UserError

SCORES = 2**24
"""Largest number of attention scores that are computed at a time."""


@dataclass(frozen=True)
class CallInputs:
    """What a decoder layer is called with.

    Args:
        hidden: (1, tokens, W) hidden states of the stage before.
        args: further positional inputs.
        inputs: its inputs by name, those of the stage before.
        position_ids: positions of these tokens, not lowered by what was dropped.
    """

    hidden: Tensor
    args: tuple[Any, ...]
    inputs: dict[str, Any]
    position_ids: Tensor


class _Seen(Exception):
    """Ends the call of a layer when its queries and keys are known."""


def queries_and_keys(module: nn.Module, call: CallInputs) -> tuple[Tensor, Tensor, float]:
    """Queries and keys of a decoder layer as its attention gets them, and the scale of the scores; without a graph.

    Shape: -> (tokens, H, D), (tokens, G, D)
    Raises:
        UserError: the layer attends by a function of its own.
    """
    found: list[tuple[Tensor, Tensor, float]] = []

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        found.append((query, key, scale))
        raise _Seen

    given = {name: value for name, value in call.inputs.items() if name != "cu_seqlens"}
    given |= {"past_key_values": None, "use_cache": False, "attend": attend}
    try:
        with torch.no_grad():
            module.forward(call.hidden.detach(), *call.args, **given)
    except _Seen:
        return found[0]
    raise UserError(
        f"layer_program: layers of type {type(module).__name__} attend by a function of their own, so that no rule can "
        "choose by attention; use rule 'uniform'"
    )


def attention_to(query: Tensor, key: Tensor, rows: Tensor, scale: float) -> Tensor:
    """How much query tokens attend to each token of their sequence, as a mean over them and over heads.

    Args:
        rows: (R,) places of the query tokens in the sequence; they attend to no later token.

    Shape: query (R, H, D), key (T, G, D) -> (T,), float32
    """
    keys = key.float().permute(1, 2, 0)
    grouped = query.float().unflatten(1, (keys.shape[0], -1))
    later = torch.arange(len(key), device=key.device) > rows[:, None]
    size = max(1, SCORES // (query.shape[1] * len(key)))
    total = torch.zeros(len(key), device=key.device)
    for part, hidden in zip(grouped.split(size), later.split(size), strict=True):
        scores = torch.matmul(part, keys) * scale
        total += scores.masked_fill_(hidden[:, None, None], -torch.inf).softmax(-1).mean((1, 2)).sum(0)
    return total / len(rows)
