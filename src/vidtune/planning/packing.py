"""Packing the samples of every optimizer step of an epoch, for all steps at once.

A step gets as few packs as its samples need under the token limit. With that number, the packs cost about the same: the
costliest sample comes first, and each sample goes into the pack with the lowest cost so far that has room.

Legend: n samples of the tables, m entries of an epoch, A steps of a block, B entries of a step, K packs of a step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from vidtune.planning.lengths import LengthTable

BLOCK = 2**17
"""Number of packs of the steps that are packed together. It limits memory and does not change results."""


@dataclass(frozen=True)
class CostModel:
    """Estimated cost of training on samples, in tokens of the language model.

    Args:
        squared: cost of attention, per squared number of tokens of a sample.
        items: stream -> cost of encoding the standard item of its tower.
    """

    squared: float = 0.0
    items: Mapping[str, float] = field(default_factory=dict)

    def of(self, lengths: LengthTable, indices: np.ndarray) -> np.ndarray:
        """Returns the cost of samples, positive. Shape: any shape of indices -> the same shape, float64"""
        tokens = lengths.tokens[indices].astype(np.float64)
        cost = tokens + self.squared * tokens**2
        for stream, weight in self.items.items():
            cost += weight * lengths.encodings(stream)[indices]
        return cost


@dataclass(frozen=True, eq=False)
class EpochPacks:
    """The packs of an epoch.

    Args:
        samples: (m,) int32 table indices, pack after pack.
        begins: (packs + 1,) position in `samples` at which each pack begins, and m.
        first_packs: (steps + 1,) number of the first pack of each step, and the number of packs.
    """

    samples: np.ndarray
    begins: np.ndarray
    first_packs: np.ndarray

    def until(self, steps: int) -> "EpochPacks":
        """Returns the packs of the first ``steps`` steps, or of all steps if there are fewer."""
        first_packs = self.first_packs[: steps + 1]
        begins = self.begins[: first_packs[-1] + 1]
        return EpochPacks(self.samples[: begins[-1]], begins, first_packs)

    def step(self, number: int) -> list[np.ndarray]:
        """Returns the table indices of each pack of a step."""
        first, end = self.first_packs[number : number + 2]
        return [self.samples[begin:end] for begin, end in pairwise(self.begins[first : end + 1])]


def pack_epoch(
    order: np.ndarray, lengths: LengthTable, cost: CostModel, global_batch_size: int, max_tokens: int
) -> EpochPacks:
    """Pack every step of an epoch.

    Args:
        order: (m,) table indices; runs of `global_batch_size` indices are the steps, the last one may be shorter.
        lengths: lengths of all samples.
        cost: cost model that the packs are balanced by.
        max_tokens: largest number of tokens of a pack; no sample is longer.
    """
    whole = len(order) // global_batch_size
    steps = order[: whole * global_batch_size].reshape(whole, global_batch_size)
    most_packs = max(1, int(_fewest_packs(lengths.tokens[steps], max_tokens).max(initial=1)))
    height = max(1, BLOCK // most_packs)
    blocks = [steps[start : start + height] for start in range(0, whole, height)]
    if len(order) > whole * global_batch_size:
        blocks.append(order[None, whole * global_batch_size :])
    samples, sizes, counts = [], [], []
    for block in blocks:
        tokens, costs = lengths.tokens[block], cost.of(lengths, block)
        packs, num_packs = _pack(tokens, costs, max_tokens)
        samples.append(np.take_along_axis(block, np.argsort(packs, axis=1, kind="stable"), axis=1).ravel())
        numbers = packs + (np.cumsum(num_packs) - num_packs)[:, None]
        sizes.append(np.bincount(numbers.ravel(), minlength=int(num_packs.sum())))
        counts.append(num_packs)
    return EpochPacks(
        np.concatenate(samples).astype(np.int32),
        np.concatenate([[0], np.cumsum(np.concatenate(sizes))]),
        np.concatenate([[0], np.cumsum(np.concatenate(counts))]),
    )


def _fewest_packs(tokens: np.ndarray, max_tokens: int) -> np.ndarray:
    """Returns a lower bound of the number of packs. Shape: (A, B) -> (A,)

    It follows from the total length, and from the fact that two samples longer than half a pack need two packs.
    """
    by_length = -(-tokens.sum(axis=1, dtype=np.int64) // max_tokens)
    return np.maximum(by_length, np.count_nonzero(2 * tokens.astype(np.int64) > max_tokens, axis=1))


def _pack(tokens: np.ndarray, costs: np.ndarray, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pack number of every entry (A, B), and the number of packs of each step (A,).

    Steps that do not fit are tried again: first balanced by length alone, then with more packs, as many as the samples
    that found no room fill.
    """
    packs = np.zeros(tokens.shape, np.int32)
    num_packs = np.maximum(_fewest_packs(tokens, max_tokens), 1)
    left = np.arange(len(tokens))
    while left.size:
        for weights in (costs, tokens):
            placed, left_over = _place(tokens[left], weights[left], num_packs[left], max_tokens)
            fits = left_over == 0
            packs[left[fits]] = placed[fits]
            left, left_over = left[~fits], left_over[~fits]
            if not left.size:
                break
        num_packs[left] += -(-left_over // max_tokens)
    return packs, num_packs


def _place(
    tokens: np.ndarray, weights: np.ndarray, num_packs: np.ndarray, max_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Put entries into packs, heaviest first, each into the lightest pack that has room.

    Shapes: (A, B), (A, B), (A,) -> pack numbers (A, B), tokens that found no room (A,)
    """
    order = np.argsort(-weights, axis=1, kind="stable")
    tokens = np.take_along_axis(tokens, order, axis=1)
    weights = np.take_along_axis(weights, order, axis=1).astype(np.float32)
    steps = np.arange(len(tokens))
    exists = np.arange(num_packs.max()) < num_packs[:, None]
    load = np.zeros(exists.shape, np.float32)
    room = np.where(exists, max_tokens, -1).astype(np.int32)
    placed = np.empty(tokens.shape, np.int32)
    left_over = np.zeros(len(tokens), np.int64)
    for entry in range(tokens.shape[1]):
        length = tokens[:, entry]
        pack = np.where(room >= length[:, None], load, np.inf).argmin(axis=1)
        fits = room[steps, pack] >= length
        room[steps, pack] -= length * fits
        load[steps, pack] += weights[:, entry] * fits
        left_over += length * ~fits
        placed[:, entry] = pack
    packs = np.empty_like(placed)
    np.put_along_axis(packs, order, placed, axis=1)
    return packs, left_over
