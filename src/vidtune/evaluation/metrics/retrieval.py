"""Retrieval of texts and media by vectors: vectors as predictions hold them, ranks, recall at K and median rank.

Equal similarities are no order. A candidate that shares its similarity with others has the ranks of all of them, each
with the same probability: recall counts the probability to be among the first K, and a rank is the mean of its ranks.
So a model that gives every medium one vector gets what guessing gets.

Legend: Q queries, C candidates, W width of the vectors.
"""

import binascii
from base64 import b64decode, b64encode
from dataclasses import dataclass

import numpy as np

EXACT_RANKS, BINS, GROWTH = 32, 80, 1.15
"""Ranks up to the first number have a bin of their own in the sums of a median rank; then bins grow by the factor."""
BETWEEN = " "


def written_vectors(medium: np.ndarray, text: np.ndarray) -> str:
    """The vectors of a medium and of its text as one text, without loss. Shape: (W,) and (W,), float32"""
    return BETWEEN.join(b64encode(np.asarray(one, "<f4").tobytes()).decode("ascii") for one in (medium, text))


def vectors_of(written: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The vectors that a text holds, as unit vectors, (W,) float64; None for a text that holds no two of one width."""
    try:
        medium, text = (np.frombuffer(b64decode(part, validate=True), "<f4") for part in written.split(BETWEEN))
    except (ValueError, binascii.Error):
        return None
    if len(medium) != len(text) or not len(medium) or not np.isfinite([medium, text]).all():
        return None
    one, other = (vector / max(np.linalg.norm(vector), 1e-12) for vector in np.asarray([medium, text], np.float64))
    return one, other


@dataclass(frozen=True, eq=False)
class Ranks:
    """Place of the right candidate of each query.

    Args:
        above: (Q,) number of candidates that are more alike than the best right one.
        tied: (Q,) number of candidates that are as alike, the right ones included.
        right: (Q,) number of right ones among those.
    """

    above: np.ndarray
    tied: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, similarities: np.ndarray, relevant: np.ndarray) -> "Ranks":
        """Shape: (Q, C) float, (Q, C) bool with at least one right candidate in each row."""
        best = np.where(relevant, similarities, -np.inf).max(1, keepdims=True)
        equal = similarities == best
        return cls((similarities > best).sum(1), equal.sum(1), (equal & relevant).sum(1))

    def recall(self, k: int) -> np.ndarray:
        """Probability that a right candidate is among the first ``k``. Shape: (Q,)"""
        drawn = np.clip(k - self.above, 0, self.tied)
        missed = np.ones(len(self.above))
        for number in range(int(drawn.max(initial=0))):
            wrong = np.maximum(self.tied - self.right - number, 0) / np.maximum(self.tied - number, 1)
            missed = np.where(number < drawn, missed * wrong, missed)
        return 1 - missed

    def rank(self) -> np.ndarray:
        """Mean rank of the first right candidate, from 1. Shape: (Q,)"""
        return self.above + (self.tied + 1) / (self.right + 1)


def rank_rows(ranks: np.ndarray) -> np.ndarray:
    """Ranks as rows that can be added up. Shape: (Q,) -> (Q, BINS)"""
    rows = np.zeros((len(ranks), BINS))
    rows[np.arange(len(ranks)), np.minimum(np.searchsorted(_UPPER, ranks), BINS - 1)] = 1
    return rows


def median_rank(sums: np.ndarray) -> np.ndarray:
    """Median of ranks whose rows were added up; above ``EXACT_RANKS`` the middle of its bin.

    Shape: (..., BINS) -> (...)
    """
    counts = np.cumsum(sums, axis=-1)
    lower, upper = ((counts >= part).argmax(-1) for part in (counts[..., -1:] / 2, counts[..., -1:] / 2 + 1e-9))
    return (_MIDDLE[lower] + _MIDDLE[upper]) / 2


_UPPER = np.concatenate([np.arange(1, EXACT_RANKS + 1), EXACT_RANKS * GROWTH ** np.arange(1, BINS - EXACT_RANKS + 1)])
_MIDDLE = np.concatenate([_UPPER[:EXACT_RANKS], (_UPPER[EXACT_RANKS - 1 : -1] + _UPPER[EXACT_RANKS:]) / 2])
