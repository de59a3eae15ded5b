"""Tower features that a connector condenses, a part of a long item at a time: memory does not grow with its length.

Legend: N features and M condensed features of an item, C tower width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Run = Callable[[Tensor | Sequence[Tensor]], Sequence[Tensor] | Tensor]
"""Function from items to their features, list of (N, C)."""


def condensed(
    tower: nn.Module,
    run: Run,
    connector: Any,
    values: Tensor | Sequence[Tensor],
    extras: Sequence[Mapping[str, Tensor]],
) -> list[Tensor]:
    """Condensed features of items.

    A tower that has ``parts_of(item, group)`` gets a bounded number of tokens at a time, see
    :class:`~vidtune.models.towers.clipwise.ClipwiseTower`; an item is cut where the connector condenses groups of
    features alone (``part_tokens``). Where the tower is trained, each part is computed again in the backward pass.

    Args:
        run: runs the tower.
        connector: config of a connector that condenses.
        extras: extras of each item by name.

    Shape: items -> list of (M, C)
    """
    cut = getattr(tower, "parts_of", None)
    if cut is None:
        return connector.condense(list(run(values)), extras)
    group = getattr(connector, "part_tokens", None)
    parts = [(item, part) for item, value in enumerate(values) for part in (cut(value, group) if group else [value])]
    trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in tower.parameters())
    calls = _calls(tower, parts)
    found: list[list[Tensor]] = [[] for _ in values]
    for call in calls:
        given = [extras[item] for item, _ in call]

        def encode(*pieces: Tensor, given: Sequence[Mapping[str, Tensor]] = given) -> list[Tensor]:
            return connector.condense(list(run(pieces)), given)

        pieces = [part for _, part in call]
        again = trained and len(calls) > 1
        blocks = checkpoint(encode, *pieces, use_reentrant=False) if again else encode(*pieces)
        for (item, _), block in zip(call, blocks, strict=True):
            found[item].append(block)
    return [blocks[0] if len(blocks) == 1 else torch.cat(blocks) for blocks in found]


def _calls(tower: Any, parts: Sequence[tuple[int, Tensor]]) -> list[list[tuple[int, Tensor]]]:
    """Parts that run together: as many as the tower takes at once, at least one."""
    calls: list[list[tuple[int, Tensor]]] = []
    room = 0
    for item, part in parts:
        tokens = tower.config.num_tokens(tuple(part.shape))
        if not calls or tokens > room:
            calls.append([])
            room = tower.tokens_at_once
        calls[-1].append((item, part))
        room -= tokens
    return calls
