"""CIDEr of captions (Vedantam et al., arXiv:1411.5726) in the form of pycocoevalcap 1.2.

That form clips counts and penalises differences in length; the paper calls it CIDEr-D. The document frequencies are
counted over the references that are evaluated: the value of an item depends on the others, and a single item scores 0.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidtune.evaluation.metrics.base import MetricValues, check_pairs
from vidtune.evaluation.metrics.bleu import ORDERS, ngrams

SIGMA = 6.0
_Gram = tuple[str, ...]


@dataclass(frozen=True)
class _Vector:
    """A caption as tf-idf weights.

    Args:
        weights: n-gram -> weight.
        norms: Euclidean norm of the weights of each order.
        length: number of bigrams; the original measures length in this way.
    """

    weights: dict[_Gram, float]
    norms: list[float]
    length: int


def cider(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> MetricValues:
    """Returns CIDEr of tokenised captions; the highest value of an item is 10. A CaptionMetric.

    The document frequencies are those of all items.

    Raises:
        ValueError: an item without reference, or lists of different length.
    """
    check_pairs(references, predictions)
    counted = [[ngrams(text.split()) for text in texts] for texts in references]
    documents: Counter[_Gram] = Counter()
    for counts in counted:
        documents.update(set().union(*counts))
    items = math.log(len(references)) if references else 0.0
    values = []
    for counts, prediction in zip(counted, predictions, strict=True):
        candidate = _vector(ngrams(prediction.split()), documents, items)
        similar = [_similarity(candidate, _vector(count, documents, items)) for count in counts]
        values.append(10 * sum(similar) / len(similar))
    return MetricValues.mean(values)


def _vector(counts: Counter[_Gram], documents: Counter[_Gram], items: float) -> _Vector:
    """Args: items: the logarithm of their number."""
    weights = {gram: count * (items - math.log(max(1, documents[gram]))) for gram, count in counts.items()}
    squares = [0.0] * ORDERS
    for gram, weight in weights.items():
        squares[len(gram) - 1] += weight**2
    length = sum(count for gram, count in counts.items() if len(gram) == 2)
    return _Vector(weights, [math.sqrt(square) for square in squares], length)


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """Mean over orders of the clipped cosine, times the penalty for the difference in length."""
    products = [0.0] * ORDERS
    for gram, weight in candidate.weights.items():
        other = reference.weights.get(gram, 0.0)
        products[len(gram) - 1] += min(weight, other) * other
    norms = [one * other for one, other in zip(candidate.norms, reference.norms, strict=True)]
    cosines = [product / norm if norm else 0.0 for product, norm in zip(products, norms, strict=True)]
    difference = candidate.length - reference.length
    return float(np.mean(cosines)) * math.exp(-(difference**2) / (2 * SIGMA**2))
