"""Attention to a part of the keys, with the log-sum-exp of its scores, by which attention to several parts is merged.

Source: Hydragen (arXiv:2402.05099).

Legend: T tokens of a forward pass over all questions, P prefix tokens, H heads, G key/value heads, D head width.
"""

from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

SCORE_BYTES = 256 * 2**20
"""Size of the float32 attention scores of one slice of queries."""


def attend_to_prefix(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Iterator[Tensor]:
    """Attention of tokens of several questions to one prefix, all folded into one product, and its log-sum-exp.

    Shape: query (T, H, D), key and value (G, P, D) -> (T, H, D), (T, H, 1)
    """
    groups, tokens = key.shape[0], query.shape[0]
    repeats = query.shape[1] // groups
    folded = query.unflatten(1, (groups, repeats)).permute(1, 2, 0, 3).flatten(1, 2)
    for x in attend_with_total(folded, key, value, scale):
        yield x.unflatten(1, (repeats, tokens)).permute(2, 0, 1, 3).flatten(1, 2)


def attend_with_total(
    query: Tensor, key: Tensor, value: Tensor, scale: float, hidden: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention that also returns the log-sum-exp of the scores, by which it is merged with attention to other keys.

    Scores, weights and sums are float32, also in half precision: rounded scores would be several times as wrong as
    torch's own attention. Queries are processed in slices, so that the scores of one slice stay below
    :data:`SCORE_BYTES`.

    Args:
        hidden: True where a query must not attend, (..., queries, keys); every query attends to at least one key.

    Shape: query (..., G, queries, D), key and value (..., G, keys, D) -> (..., G, queries, D), (..., G, queries, 1),
        float32
    """
    multiply: Callable[[Tensor, Tensor], Tensor] = torch.matmul
    if query.dtype.itemsize < 4 and _has_float32_products(query.device):
        multiply = _float32_product
    elif query.dtype.itemsize < 4:
        query, key, value = query.float(), key.float(), value.float()
    per_query = 4 * key.shape[:-1].numel()
    size = max(1, SCORE_BYTES // per_query)
    outputs, totals = [], []
    for begin in range(0, query.shape[-2], size):
        rows = slice(begin, begin + size)
        if multiply is torch.matmul:
            scores = torch.matmul(query[..., rows, :] * scale, key.transpose(-1, -2))
        else:
            scores = multiply(query[..., rows, :], key.transpose(-1, -2)).mul_(scale)
        if hidden is not None:
            scores.masked_fill_(hidden[..., rows, :], -torch.inf)
        highest = scores.amax(-1, keepdim=True)
        weights = scores.sub_(highest).exp_()
        total = weights.sum(-1, keepdim=True)
        outputs.append(multiply(weights.to(value.dtype), value) / total)
        totals.append(highest + total.log())
    return (outputs[0], totals[0]) if len(outputs) == 1 else (torch.cat(outputs, -2), torch.cat(totals, -2))


@cache
def _has_float32_products(device: torch.device) -> bool:
    """Whether a device multiplies half-precision matrices to a float32 product; since torch 2.8, CUDA only."""
    return device.type == "cuda" and torch.version.hip is None and "dtype" in torch.ops.aten.bmm.overloads()


def _float32_product(one: Tensor, other: Tensor) -> Tensor:
    """Product of matrices in half precision, not rounded to it. Shape: (..., I, K), (..., K, J) -> (..., I, J)"""
    found: Tensor = torch.ops.aten.bmm.dtype(one.flatten(0, -3), other.flatten(0, -3), torch.float32)
    return found.unflatten(0, one.shape[:-2])
