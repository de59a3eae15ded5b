"""SODA_c: dense captions of a video, matched in temporal order (Fujita et al., ECCV 2020; github.com/fujiso/SODA).

Predictions are matched with events in temporal order so that the sum of IoU x METEOR is largest; that sum over the
number of predictions is precision, over the number of events recall. Published numbers contain two oddities of the
original: METEOR gets the prediction as reference, and the union of two intervals is the smaller of
their hull and the sum of their lengths.

Legend: G events of the truth, P predictions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidtune.evaluation.metrics.base import CaptionMetric


@dataclass(frozen=True)
class TimedSentence:
    """A sentence about a part of a video.

    Args:
        start, end: in seconds unless another unit is named; a model may write an end before the start.
    """

    start: float
    end: float
    sentence: str


@dataclass(frozen=True)
class Soda:
    """SODA_c of one video."""

    precision: float
    recall: float
    f1: float


def event_iou(first: Sequence[TimedSentence], second: Sequence[TimedSentence]) -> np.ndarray:
    """IoU of every pair. Shape: G events, P events -> (G, P)"""
    start, end = (np.array(values, dtype=np.float64)[:, None] for values in _times(first))
    other_start, other_end = (np.array(values, dtype=np.float64)[None] for values in _times(second))
    intersection = np.maximum(0, np.minimum(end, other_end) - np.maximum(start, other_start))
    hull = np.maximum(end, other_end) - np.minimum(start, other_start)
    union = np.minimum(hull, end - start + other_end - other_start) + 1e-8
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=intersection > 0)


def best_matching(scores: np.ndarray) -> float:
    """Returns the largest sum over pairs that keep the order of both sides; each row and column is used at most once.

    Args:
        scores: no score is negative.

    Shape: (G, P) -> ()
    """
    best = np.zeros(scores.shape[1] + 1)
    for row in scores:
        best[1:] = np.maximum(best[1:], best[:-1] + row)
        best = np.maximum.accumulate(best)
    return float(best[-1])


def soda_c(
    predictions: Sequence[Sequence[TimedSentence]], truths: Sequence[Sequence[TimedSentence]], meteor: CaptionMetric
) -> list[Soda]:
    """Returns SODA_c of each video, from tokenised sentences.

    All pairs of all videos go to ``meteor`` in one call. Pairs without temporal overlap score 0 and are left out.
    """
    if len(predictions) != len(truths):
        raise ValueError(f"predictions of {len(predictions)} videos, events of {len(truths)}")
    matrices = []
    texts: list[tuple[str, str]] = []
    for predicted, events in zip(predictions, truths, strict=True):
        columns = sorted(predicted, key=lambda event: event.start)
        rows = sorted(events, key=lambda event: event.start)
        matrix = event_iou(rows, columns)
        pairs = np.argwhere(matrix > 0)
        texts.extend((columns[column].sentence, rows[row].sentence) for row, column in pairs)
        matrices.append((matrix, pairs))
    values = meteor([[prediction] for prediction, _ in texts], [event for _, event in texts]).per_item
    done, scores = 0, []
    for matrix, pairs in matrices:
        matrix[tuple(pairs.T)] *= values[done : done + len(pairs)]
        done += len(pairs)
        scores.append(_soda(matrix))
    return scores


def _soda(matrix: np.ndarray) -> Soda:
    if not matrix.size:
        return Soda(0.0, 0.0, 0.0)
    events, predictions = matrix.shape
    total = best_matching(matrix)
    precision, recall = total / predictions, total / events
    f1 = 2 * precision * recall / (precision + recall) if total > 0 else 0.0
    return Soda(precision, recall, f1)


def _times(events: Sequence[TimedSentence]) -> tuple[list[float], list[float]]:
    return [event.start for event in events], [event.end for event in events]
