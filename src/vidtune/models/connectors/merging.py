"""Merging of similar tokens, group by group: pairs of tokens are averaged, in rounds, until a fixed number is left.

In a round a token at an even place may merge into the most similar token at an odd place. Those with the most similar
partners do, as many as the round needs. Then the tokens that stayed alone stand in front, by falling similarity, and
those at odd places behind them in their order; the next round counts its places in this order.

Legend: B groups, N tokens of a group at first, p before a round, r merged in it, n after it, C width.
Source: Token Merging (arXiv:2210.09461); in this order of tokens arXiv:2501.00574.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

LOT_NUMBERS = {"cpu": 2**23}
"""Numbers of the features that are merged together, by type of device: on a CPU about as many as its cache holds."""
LOT_NUMBERS_ELSEWHERE = 2**26


def schedule(tokens: int, target: int) -> list[int]:
    """Number of tokens that are merged in each round; at most half of them.

    Raises:
        ValueError: there are fewer tokens than the target, or the target is less than 1.
    """
    if not 1 <= target <= tokens:
        raise ValueError(f"{tokens} tokens cannot be merged to {target}")
    rounds = []
    while tokens > target:
        rounds.append(min(tokens - target, tokens // 2))
        tokens -= rounds[-1]
    return rounds


def merge(groups: Sequence[Tensor], target: int, heads: int, dtype: torch.dtype | None = None) -> Tensor:
    """Tokens after the last round: each is the mean of the tokens that it was merged of. A gradient reaches all tokens.

    Groups are merged in lots, so that memory is bounded; what a group becomes does not depend on the others. For the
    backward pass only the places of the tokens are kept.

    Args:
        groups: groups of several items.
        heads: two tokens are compared by their mean over this many parts of their width.
        dtype: dtype in which they are compared; None: that of the tokens. In float16 or bfloat16 the tokens are
            averaged and rounded in every round before they are compared, as published code does.

    Shape: list of (B, N, C) -> (all B, target, C)
    """
    with torch.autocast(groups[0].device.type, enabled=False):  # it would compare tokens in another dtype
        merged: Tensor = _Merging.apply(target, heads, dtype or groups[0].dtype, *groups)
    return merged


class _Merging(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, target: int, heads: int, dtype: torch.dtype, *groups: Tensor) -> Tensor:
        merged, places, sizes = [], [], []
        for lot in _lots(groups):
            places.append(destinations(lot, target, heads, dtype))
            tokens, size = averages(lot, places[-1], target)
            merged.append(tokens)
            sizes.append(size)
        ctx.save_for_backward(torch.cat(places), torch.cat(sizes))
        ctx.lengths = [len(block) for block in groups]
        return torch.cat(merged)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        places, sizes = ctx.saved_tensors
        given = (grad / sizes.unsqueeze(2)).flatten(0, 1)
        rows = _in_all(places, grad.shape[1]).flatten()
        return None, None, None, *given[rows].unflatten(0, places.shape).split(ctx.lengths)


def _lots(groups: Sequence[Tensor]) -> Iterator[Tensor]:
    """Groups that are merged together. Shape: list of (B, N, C) -> (some, N, C) each"""
    numbers = groups[0].shape[1] * groups[0].shape[2]
    most = max(1, LOT_NUMBERS.get(groups[0].device.type, LOT_NUMBERS_ELSEWHERE) // numbers)
    lot: list[Tensor] = []
    for block in groups:
        while len(block):
            piece, block = block.tensor_split([most - sum(map(len, lot))])
            lot.append(piece)
            if sum(map(len, lot)) == most:
                yield torch.cat(lot) if len(lot) > 1 else piece
                lot = []
    if lot:
        yield torch.cat(lot)


@torch.no_grad()
def destinations(tokens: Tensor, target: int, heads: int, dtype: torch.dtype) -> Tensor:
    """For every token the place, after the last round, of the one that it is merged into. (B, N, C) -> (B, N) int64"""
    if dtype.itemsize < torch.float32.itemsize:
        values = tokens.to(dtype)
    else:  # a mean over heads of merged tokens is the merged mean, up to rounding
        values, heads = _over_heads(tokens, heads, dtype), 1
    places = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
    sizes = None
    for number in schedule(tokens.shape[1], target):
        into = one_round(*pairs(values, heads, number), values.shape[1])
        values, sizes = averages(values, into, values.shape[1] - number, sizes)
        places = into.gather(1, places)
    return places


def pairs(values: Tensor, heads: int, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs that are merged in a round, by falling similarity; equal ones in the order of their places.

    Shape: (B, p, C) -> numbers among the even places that stay alone (B, ceil(p / 2) - r) and that merge (B, r), and
    numbers among the odd places that these merge into (B, r)
    """
    compared = _over_heads(values, heads, values.dtype) if heads > 1 else values
    compared = compared / compared.norm(dim=-1, keepdim=True)
    similar, partners = torch.bmm(compared[:, ::2].contiguous(), compared[:, 1::2].contiguous().mT).max(dim=-1)
    order = similar.argsort(dim=-1, descending=True, stable=True)
    merging = order[:, :number]
    return order[:, number:], merging, partners.gather(1, merging)


def one_round(alone: Tensor, merging: Tensor, partners: Tensor, tokens: int) -> Tensor:
    """For every token its place after a round; arguments as `pairs` returns them. Shape: -> (B, tokens) int64"""
    groups, kept = alone.shape
    into = alone.new_empty(groups, tokens)
    into[:, 1::2] = torch.arange(kept, kept + tokens // 2, device=into.device)
    first = torch.arange(kept, device=into.device).expand(groups, kept)
    into[:, ::2].scatter_(1, torch.cat([alone, merging], 1), torch.cat([first, kept + partners], 1))
    return into


@torch.no_grad()
def averages(values: Tensor, into: Tensor, number: int, sizes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Means of the tokens that have one destination; sums are made in one order on every device.

    Args:
        into: destination of every token.
        number: number of destinations n; each has a token.
        sizes: how many tokens each value is the mean of; None: one.

    Shape: (B, p, C), (B, p), (B, p) -> (B, n, C), and the sizes of these (B, n)
    """
    ordered, order = into.sort(dim=1, stable=True)
    rows, bags = _in_all(order, into.shape[1]).flatten(), _in_all(ordered, number).flatten()
    begins = torch.searchsorted(bags, torch.arange(len(values) * number, device=bags.device))
    counted = values if sizes is None else values * sizes.unsqueeze(2)
    sums = embedding_bag(rows, counted.reshape(-1, values.shape[2]), begins, mode="sum")
    ones = values.new_ones(len(rows)) if sizes is None else sizes.flatten()[rows]
    counts = values.new_zeros(len(begins)).index_add_(0, bags, ones)
    return (sums / counts.unsqueeze(1)).unflatten(0, (-1, number)), counts.unflatten(0, (-1, number))


def _over_heads(values: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """Shape: (B, p, C) -> (B, p, C / heads)"""
    return values.unflatten(2, (heads, -1)).mean(2, dtype=dtype)


def _in_all(places: Tensor, number: int) -> Tensor:
    """Places in the groups as places in all groups of ``number`` tokens, one after the other. Shape: (B, p) -> same"""
    return places + torch.arange(0, len(places) * number, number, device=places.device).unsqueeze(1)
