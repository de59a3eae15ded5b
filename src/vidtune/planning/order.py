"""The order of samples in an epoch: a pure function of fingerprint, seed, epoch and lengths.

Legend: n samples.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from vidtune.errors import UserError, errors_of
from vidtune.planning.randomness import generator, torch_generator
from vidtune.registry import ORDER_RULES

Draw = tuple[str, int, int]
"""What the randomness of an epoch depends on: fingerprint of the data, seed of the recipe, number of the epoch."""


@dataclass(frozen=True)
class OrderRule:
    """A rule that assigns samples to optimizer steps.

    Args:
        order: pure function(number of words per sample, negative for text-only samples; number of samples of a step;
            see :data:`Draw`) -> indices of the samples; consecutive runs of one step's size are the steps.
        needs_words: whether every sample must have at least one word.
    """

    order: Callable[[np.ndarray, int, Draw], np.ndarray]
    needs_words: bool = False


def epoch_order(
    rule: str, lengths: np.ndarray, *, fingerprint: str, seed: int, epoch: int, global_batch_size: int
) -> np.ndarray:
    """Returns the indices of the samples in the order of one epoch.

    Consecutive runs of `global_batch_size` indices are the optimizer steps. The order is the same on any number of
    ranks and in any process.

    Args:
        rule: name of a rule in :data:`vidtune.registry.ORDER_RULES`. ``shuffled``: random; ``sequential``: the order of
            the data; ``modality_grouped``: see `modality_grouped_order`.
        lengths: (n,) number of words per sample, negative for text-only samples (`AnnotationTable.word_lengths`).
        fingerprint: fingerprint of the data; other data have another order.
        seed, epoch: seed of the recipe and number of the epoch.
        global_batch_size: number of samples of an optimizer step.

    Shape: -> (n,) int64
    Raises:
        UserError: unknown rule, or a rule that does not return every sample once.
    """
    with errors_of(f"order {rule!r} fails"):
        found = np.asarray(ORDER_RULES[rule].order(lengths, global_batch_size, (fingerprint, seed, epoch)))
    if len(lengths) and (found.ndim != 1 or not np.issubdtype(found.dtype, np.integer)):
        raise UserError(
            f"order {rule!r}: gives {found.dtype} {found.shape}; expected a row of sample indices (integers)"
        )
    if not np.array_equal(np.sort(found), np.arange(len(lengths))):
        raise UserError(f"order {rule!r}: does not return each of the {len(lengths)} samples once")
    return found


def _sequential(lengths: np.ndarray, step_size: int, draw: Draw) -> np.ndarray:
    return np.arange(len(lengths))


def _shuffled(lengths: np.ndarray, step_size: int, draw: Draw) -> np.ndarray:
    return generator(*draw).permutation(len(lengths))


def _modality_grouped(lengths: np.ndarray, step_size: int, draw: Draw) -> np.ndarray:
    return modality_grouped_order(lengths, step_size, 1, torch_generator(*draw))


SEQUENTIAL = OrderRule(_sequential)
SHUFFLED = OrderRule(_shuffled)
MODALITY_GROUPED = OrderRule(_modality_grouped, needs_words=True)


def modality_grouped_order(
    lengths: np.ndarray, batch_size: int, world_size: int, generator: torch.Generator | None = None
) -> np.ndarray:
    """Returns a random order in which a batch holds either samples with media or text-only ones, of similar length.

    This is the order of `group_by_modality_length` in haotian-liu/LLaVA. Each group is shuffled and cut into
    megabatches of `batch_size * world_size` samples. Each megabatch is shared out so that every rank gets about the
    same number of words. Then the megabatches of both groups are shuffled. Samples that do not fill a megabatch come
    last, in the order of the data.

    Args:
        lengths: (n,) number of words per sample, negative for text-only samples.
        generator: source of all random permutations; None takes the global one of torch, as published code does.

    Shape: -> (n,) int64
    Raises:
        UserError: a sample has no words; names its index.
    """
    lengths = np.asarray(lengths)
    if (wordless := np.flatnonzero(lengths == 0)).size:
        raise UserError(f"sample number {wordless[0]} has no words: order 'modality_grouped' needs some")
    groups = [np.flatnonzero(lengths > 0), np.flatnonzero(lengths < 0)]
    if not all(group.size for group in groups):
        return _length_grouped_order(lengths, batch_size, world_size, generator)
    size = batch_size * world_size
    full, leftover = [], []
    for group in groups:
        order = group[_length_grouped_order(np.abs(lengths[group]), batch_size, world_size, generator)]
        # The published code sets the last megabatch aside even when it is full.
        kept = (len(order) - 1) // size * size
        full.append(order[:kept].reshape(-1, size))
        leftover.append(order[kept:])
    megabatches = np.concatenate(full)
    shuffled = megabatches[torch.randperm(len(megabatches), generator=generator).numpy()]
    return np.concatenate([shuffled.ravel(), np.sort(np.concatenate(leftover))])


def _length_grouped_order(
    lengths: np.ndarray, batch_size: int, world_size: int, generator: torch.Generator | None
) -> np.ndarray:
    """Returns a shuffled order, longest first in every megabatch, shared out over the ranks. Shape: -> (n,) int64"""
    order = torch.randperm(len(lengths), generator=generator).numpy()
    size = batch_size * world_size
    kept = len(order) // size * size
    blocks = [order[:kept].reshape(-1, size), order[None, kept:]]
    parts = []
    for block in (block for block in blocks if block.size):
        longest_first = np.take_along_axis(block, np.argsort(-lengths[block], axis=1, kind="stable"), axis=1)
        parts += [longest_first] if world_size == 1 else [_deal(row, lengths, world_size) for row in longest_first]
    return np.concatenate([part.ravel() for part in parts] or [order])


def _deal(indices: np.ndarray, lengths: np.ndarray, ranks: int) -> np.ndarray:
    """Share out indices, longest first: each goes to the rank with the fewest words that still has room.

    Shape: (m,) -> (m,), the first rank's indices first
    """
    if len(indices) % ranks:
        return np.concatenate([indices[rank::ranks] for rank in range(ranks)])
    room = len(indices) // ranks
    shares: list[list[int]] = [[] for _ in range(ranks)]
    open_ranks = [(0, rank) for rank in range(ranks)]
    for index in indices.tolist():
        words, rank = heapq.heappop(open_ranks)
        shares[rank].append(index)
        if len(shares[rank]) < room:
            heapq.heappush(open_ranks, (words + int(lengths[index]), rank))
    return np.array(shares, np.int64).ravel()
