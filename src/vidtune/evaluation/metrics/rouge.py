"""ROUGE-L of captions (Lin, ACL Workshop 2004) in the form of pycocoevalcap 1.2: beta 1.2, mean over items.

With several references, the best precision and the best recall are taken independently.
"""

from collections.abc import Sequence

from vidtune.evaluation.metrics.base import MetricValues, check_pairs

BETA = 1.2


def rouge_l(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> MetricValues:
    """Returns ROUGE-L of tokenised captions. A CaptionMetric.

    Raises:
        ValueError: an item without reference, or lists of different length.
    """
    check_pairs(references, predictions)
    return MetricValues.mean([_item(texts, text) for texts, text in zip(references, predictions, strict=True)])


def _item(references: Sequence[str], prediction: str) -> float:
    tokens = prediction.split(" ")  # an empty text is one empty token
    precision = recall = 0.0
    for reference in references:
        others = reference.split(" ")
        common = common_length(tokens, others)
        precision = max(precision, common / len(tokens))
        recall = max(recall, common / len(others))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence."""
    lengths = [0] * (len(second) + 1)
    for one in first:
        diagonal = 0
        for number, other in enumerate(second, 1):
            above = lengths[number]
            lengths[number] = diagonal + 1 if one == other else max(above, lengths[number - 1])
            diagonal = above
    return lengths[-1]
