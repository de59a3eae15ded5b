"""The order of samples, and their packing into micro-batches: pure functions of fingerprint, seed, epoch and lengths.

Legend: n samples.
"""

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch

from vidtune.errors import UserError

OrderRule = Literal["shuffled", "modality_grouped", "sequential"]


def epoch_order(
    rule: OrderRule, lengths: np.ndarray, *, fingerprint: str, seed: int, epoch: int, global_batch_size: int
) -> np.ndarray:
    """Indices of the samples in the order of one epoch.

    Consecutive runs of `global_batch_size` indices are the optimizer steps. The order is the same on any number of
    ranks and in any process.

    Args:
        rule: ``shuffled`` at random; ``sequential`` as they stand; ``modality_grouped`` see `modality_grouped_order`.
        lengths: (n,) words per sample, negative for text-only samples (`AnnotationTable.word_lengths`).
        fingerprint: of the data; other data, another order.

    Shape: -> (n,) int64
    """
    if rule == "sequential":
        return np.arange(len(lengths))
    key = hashlib.sha256(f"{fingerprint} {seed} {epoch}".encode()).digest()
    if rule == "shuffled":
        generator = np.random.Generator(np.random.Philox(key=np.frombuffer(key[:16], np.uint64)))
        return generator.permutation(len(lengths))
    torch_generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "little"))
    return np.array(modality_grouped_order(lengths.tolist(), global_batch_size, 1, torch_generator), np.int64)


def modality_grouped_order(
    lengths: Sequence[int], batch_size: int, world_size: int, generator: torch.Generator | None = None
) -> list[int]:
    """Random order in which a batch holds samples with media, or text-only ones, of similar length.

    The order of `group_by_modality_length` in haotian-liu/LLaVA: each group is shuffled, cut into megabatches of
    `batch_size * world_size`, each dealt out so that every rank gets as many words; then the megabatches of both groups
    are shuffled. What does not fill a megabatch comes last, in the order of the data.

    Args:
        lengths: words per sample, negative for text-only samples.
        generator: source of all random permutations; None takes torch's global one, as published code does.
    Raises:
        UserError: a sample has no words; names its index.
    """
    if 0 in lengths:
        raise UserError(f"sample number {list(lengths).index(0)} has no words: order 'modality_grouped' needs some")
    groups = [
        [i for i, length in enumerate(lengths) if length > 0],
        [i for i, length in enumerate(lengths) if length < 0],
    ]
    if not all(groups):
        return list(_length_grouped_order(lengths, batch_size, world_size, generator))
    full: list[list[int]] = []
    leftover: list[int] = []
    for group in groups:
        sizes = [abs(lengths[i]) for i in group]
        order = [group[i] for i in _length_grouped_order(sizes, batch_size, world_size, generator)]
        *most, last = _cut(order, batch_size * world_size)
        full += most
        leftover += last
    shuffled = [full[i] for i in torch.randperm(len(full), generator=generator).tolist()]
    return [i for megabatch in [*shuffled, sorted(leftover)] for i in megabatch]


def _length_grouped_order(
    lengths: Sequence[int], batch_size: int, world_size: int, generator: torch.Generator | None
) -> Iterator[int]:
    order = torch.randperm(len(lengths), generator=generator).tolist()
    for megabatch in _cut(order, batch_size * world_size):
        for share in _deal(sorted(megabatch, key=lambda i: lengths[i], reverse=True), lengths, world_size):
            yield from share


def _cut(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _deal(indices: list[int], lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Deal indices, longest first, into equally many per rank, each to the rank with the fewest words that has room."""
    if len(indices) % ranks:
        return [indices[rank::ranks] for rank in range(ranks)]
    room = len(indices) // ranks
    shares: list[list[int]] = [[] for _ in range(ranks)]
    open_ranks = [(0, rank) for rank in range(ranks)]
    for index in indices:
        words, rank = heapq.heappop(open_ranks)
        shares[rank].append(index)
        if len(shares[rank]) < room:
            heapq.heappush(open_ranks, (words + lengths[index], rank))
    return shares


def packs_of_step(lengths: Sequence[int], max_tokens: int, ids: Sequence[str] | None = None) -> list[list[int]]:
    """Pack the examples of one optimizer step into as few micro-batches as they need, of about equal size.

    Longest first, each into the pack that holds least; when one overflows, again with one pack more.

    Args:
        lengths: tokens per example.
        max_tokens: most tokens in a pack.
        ids: sample ids, for the message.

    Returns:
        For each pack, ascending positions in `lengths`. Empty packs do not occur.
    Raises:
        UserError: an example alone is longer than a pack; names it and the number it needs.
    """
    if not len(lengths):
        return []
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    longest = longest_first[0]
    if lengths[longest] > max_tokens:
        name = ids[longest] if ids is not None else f"number {longest} of the step"
        raise UserError(
            f"sample {name} has {lengths[longest]} tokens but max_tokens_per_batch is {max_tokens}: "
            f"set max_tokens_per_batch to at least {lengths[longest]}, or lower max_expanded_length"
        )
    for count in range(-(-sum(lengths) // max_tokens) or 1, len(lengths) + 1):
        packs: list[list[int]] = [[] for _ in range(count)]
        filled = [(0, pack) for pack in range(count)]
        for i in longest_first:
            tokens, pack = heapq.heappop(filled)
            if tokens + lengths[i] > max_tokens:
                break
            packs[pack].append(i)
            heapq.heappush(filled, (tokens + lengths[i], pack))
        else:
            return [sorted(pack) for pack in packs if pack]
    raise AssertionError("one pack per example always fits")
