"""Temporal grounding: an answer such as "From 10 to 20." against an interval.

The default is that of VTimeLLM (arXiv:2311.18445; github.com/huangb23/VTimeLLM), kept with its quirks because published
numbers contain them: exactly two digits are read on each side, the union of two intervals is their hull, and
an IoU is rounded to two decimals before it is averaged or compared with a threshold.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from vidtune.evaluation.metrics.base import Id, MetricValues, TaskValues, join

THRESHOLDS = (0.3, 0.5, 0.7)
Interval = tuple[float, float]
_ANSWER = re.compile(r"(\d{2}) (?:to|and) (\d{2})")


def parse_interval(answer: str) -> Interval | None:
    """Returns the first interval in an answer, as fractions of the duration; None: there is none."""
    found = _ANSWER.search(answer)
    return (int(found[1]) / 100, int(found[2]) / 100) if found else None


def interval_iou(first: Interval, second: Interval) -> float:
    """Intersection over hull, not rounded; 0 when both are the same point."""
    hull = max(first[1], second[1]) - min(first[0], second[0])
    if hull == 0:
        return 0.0
    return max(0.0, (min(first[1], second[1]) - max(first[0], second[0])) / hull)


def score_grounding(
    answers: Mapping[Id, str],
    truths: Mapping[Id, Interval],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    strict: bool = False,
    read: Callable[[str], Interval | None] = parse_interval,
    decimals: int | None = 2,
) -> TaskValues[Id]:
    """Returns mIoU and the share of answers whose IoU reaches each threshold.

    Args:
        truths: intervals, in the unit of ``read``.
        strict: an item without an answer counts as an empty one.
        read: reads the interval in an answer; by default as fractions of the duration.
        decimals: decimals that an IoU is rounded to before it is used; None: it is not.

    Returns:
        ``mIoU`` and one ``R1@...`` per threshold.
    """
    joined = join(answers, truths, strict)
    ious, unparsed = [], []
    for one in joined.ids:
        answer = answers.get(one, "")
        interval = read(answer)
        if interval is None and one in answers:
            unparsed.append(one)
        iou = interval_iou(interval, truths[one]) if interval else 0.0
        ious.append(iou if decimals is None else round(iou, decimals))
    metrics = {"mIoU": MetricValues.mean(ious)}
    for threshold in thresholds:
        metrics[f"R1@{threshold}"] = MetricValues.mean([float(iou >= threshold) for iou in ious])
    return TaskValues(joined.ids, joined.missing, joined.unknown, tuple(unparsed), metrics)
