"""BLEU of captions, with the smoothing constants of the COCO caption evaluation.

Papineni et al., BLEU: a Method for Automatic Evaluation of Machine Translation (ACL 2002); the form, that of
pycocoevalcap 1.2 (github.com/salaniz/pycocoevalcap): the closest reference length counts, and tiny constants keep
items without a match above zero.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from vidtune.evaluation.metrics.base import MetricValues, check_pairs

ORDERS = 4
_ABOVE, _BELOW = 1e-15, 1e-9  # added above and below a fraction line
_MATCHES, _TOTALS = slice(2, 2 + ORDERS), slice(2 + ORDERS, 2 + 2 * ORDERS)


def ngrams(tokens: Sequence[str], orders: int = ORDERS) -> Counter[tuple[str, ...]]:
    """Counts each sequence of 1 to ``orders`` tokens."""
    return Counter(
        tuple(tokens[start : start + order])
        for order in range(1, orders + 1)
        for start in range(len(tokens) - order + 1)
    )


def bleu(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> list[MetricValues]:
    """Returns BLEU-1 to BLEU-4 of a corpus of tokenised captions.

    Args:
        references: one or more per item.

    Raises:
        ValueError: an item without a reference, or lists of different lengths.
    """
    check_pairs(references, predictions)
    rows = [_statistics(texts, prediction) for texts, prediction in zip(references, predictions, strict=True)]
    statistics = np.array(rows, dtype=np.float64).reshape(len(rows), 2 + 2 * ORDERS)
    return [MetricValues.of(statistics, bleu_of_sums(order)) for order in range(1, ORDERS + 1)]


def bleu4(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> MetricValues:
    """Returns BLEU-4. A CaptionMetric."""
    return bleu(references, predictions)[ORDERS - 1]


def bleu_of_sums(order: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function that computes BLEU of one order from summed statistics; those of all orders are the same.

    Shape of what it takes and returns: (..., 2 + 2 * ORDERS) -> (...)
    """
    return partial(_from_sums, order=order)


def _statistics(references: Sequence[str], prediction: str) -> list[int]:
    """Length, length of the closest reference (the shorter of two), matches per order, n-grams per order."""
    tokens = prediction.split()
    known: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        known |= ngrams(reference.split())
    matches = Counter[int]()
    for gram, count in ngrams(tokens).items():
        matches[len(gram)] += min(count, known[gram])
    lengths = [len(reference.split()) for reference in references]
    closest = min(lengths, key=lambda length: (abs(length - len(tokens)), length))
    orders = range(1, ORDERS + 1)
    return [
        len(tokens),
        closest,
        *(matches[order] for order in orders),
        *(max(0, len(tokens) - order + 1) for order in orders),
    ]


def _from_sums(sums: np.ndarray, order: int) -> np.ndarray:
    """BLEU of one order from summed statistics. Shape: (..., 2 + 2 * ORDERS) -> (...)"""
    precisions = (sums[..., _MATCHES] + _ABOVE) / (sums[..., _TOTALS] + _BELOW)
    ratio = (sums[..., 0] + _ABOVE) / (sums[..., 1] + _BELOW)
    penalty = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return np.prod(precisions[..., :order], axis=-1) ** (1 / order) * penalty
