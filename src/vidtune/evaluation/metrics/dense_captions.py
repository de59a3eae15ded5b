"""Dense captioning: an answer "From 00 to 24, a man enters." per line against the events of a video.

Two families of metrics, as VTimeLLM computes them (arXiv:2311.18445; github.com/huangb23/VTimeLLM): SODA_c, and those
of Krishna et al. (arXiv:1705.00754; github.com/ranjaykrishna/densevid_eval): at each IoU threshold every prediction is
compared with all events it overlaps enough, or with a meaningless word if there is none; scores are averaged over
videos, then over thresholds.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vidtune.evaluation.metrics.base import CaptionMetric, Id, MetricValues, TaskValues, join
from vidtune.evaluation.metrics.bleu import ORDERS, bleu
from vidtune.evaluation.metrics.cider import cider
from vidtune.evaluation.metrics.rouge import rouge_l
from vidtune.evaluation.metrics.soda import TimedSentence, event_iou, soda_c
from vidtune.evaluation.metrics.tokenizer import TokenizerName, tokenize

IOUS = (0.3, 0.5, 0.7, 0.9)
MOST_PREDICTIONS = 1000  # per video, in the second family
SAME_SENTENCE = 0.98
GARBAGE = "qxzvjkwqhgfzx"  # the original draws 10 to 20 random letters; what matters is that no caption has the word
# A longer run of digits is no time: such a number would not even fit a float.
_LINE = re.compile(r"From (\d{1,15}) to (\d{1,15}), (.+?)(?=\n|$)")


@dataclass(frozen=True)
class Truth:
    """The events of a video; all times in seconds."""

    duration: float
    events: tuple[TimedSentence, ...]


def parse_events(answer: str) -> list[TimedSentence]:
    """Returns the events that an answer lists, with times as written: hundredths of the duration, the end included."""
    return [TimedSentence(int(start), int(end), sentence.strip()) for start, end, sentence in _LINE.findall(answer)]


def merge_neighbours(events: Sequence[TimedSentence]) -> list[TimedSentence]:
    """Join consecutive events with (nearly) the same sentence that are at most one unit apart, or overlap by one."""
    merged: list[TimedSentence] = []
    for event in events:
        last = merged[-1] if merged else None
        if last and -1 <= event.start - last.end <= 1 and _same(last.sentence, event.sentence):
            merged[-1] = replace(last, end=event.end)
        else:
            merged.append(event)
    return merged


def to_seconds(events: Sequence[TimedSentence], duration: float) -> list[TimedSentence]:
    """Convert times from hundredths of the duration, the end included, to seconds. An end before the start is kept."""
    return [
        replace(event, start=event.start * duration / 100, end=(event.end + 1) * duration / 100) for event in events
    ]


def read_events(answer: str, duration: float) -> list[TimedSentence]:
    """Returns the events of an answer in seconds, with neighbours merged."""
    return to_seconds(merge_neighbours(parse_events(answer)), duration)


def score_dense_captions(
    answers: Mapping[Id, str],
    truths: Mapping[Id, Truth],
    *,
    meteor: CaptionMetric | None = None,
    tokenizer: TokenizerName = "ptb",
    strict: bool = False,
) -> TaskValues[Id]:
    """All metrics of dense captioning; the items are videos.

    Args:
        meteor: metric that computes METEOR; None: ``SODA_c`` and ``METEOR`` are not computed.
        strict: a video without an answer counts as an answer without events.

    Returns:
        ``SODA_c``, ``METEOR``, ``CIDEr``, ``Rouge-L``, ``Bleu_1`` to ``Bleu_4`` and, of the intervals alone,
        ``Precision``, ``Recall`` and ``F1``, over all thresholds and at each (``F1@0.5``).
    """
    joined = join(answers, truths, strict)
    predicted = [read_events(answers.get(one, ""), truths[one].duration) for one in joined.ids]
    unparsed = tuple(one for one, events in zip(joined.ids, predicted, strict=True) if one in answers and not events)
    predicted, listed = _tokenized(predicted, [truths[one].events for one in joined.ids], tokenizer)
    metrics: dict[str, MetricValues] = {}
    if meteor is not None:
        metrics["SODA_c"] = MetricValues.mean([video.f1 for video in soda_c(predicted, listed, meteor)])
    predicted = [events[:MOST_PREDICTIONS] for events in predicted]
    ious = [event_iou(events, predictions) for predictions, events in zip(predicted, listed, strict=True)]
    metrics.update(_caption_scores(predicted, listed, ious, meteor))
    metrics.update(_interval_scores(ious))
    return TaskValues(joined.ids, joined.missing, joined.unknown, unparsed, metrics)


def _same(first: str, second: str) -> bool:
    return difflib.SequenceMatcher(None, first, second).ratio() > SAME_SENTENCE


def _tokenized(
    predictions: Sequence[Sequence[TimedSentence]], truths: Sequence[Sequence[TimedSentence]], tokenizer: TokenizerName
) -> tuple[list[list[TimedSentence]], list[list[TimedSentence]]]:
    """The same events with tokenised sentences; all sentences are tokenised as one input."""
    videos = [*predictions, *truths]
    tokens = iter(tokenize([_ascii(event.sentence) for events in videos for event in events], tokenizer))
    done = [[replace(event, sentence=next(tokens)) for event in events] for events in videos]
    return done[: len(predictions)], done[len(predictions) :]


def _ascii(text: str) -> str:
    return re.sub(r"[^\x00-\x7f]", " ", text)


def _caption_scores(
    predictions: Sequence[Sequence[TimedSentence]],
    truths: Sequence[Sequence[TimedSentence]],
    ious: Sequence[np.ndarray],
    meteor: CaptionMetric | None,
) -> dict[str, MetricValues]:
    """Means over videos of the mean over thresholds. Shape: ious (G, P) per video"""
    names = (["METEOR"] if meteor else []) + ["CIDEr", "Rouge-L", *(f"Bleu_{order}" for order in range(1, ORDERS + 1))]
    values = np.zeros((len(ious), len(IOUS), len(names)))
    for video, (predicted, events, iou) in enumerate(zip(predictions, truths, ious, strict=True)):
        for number, least in enumerate(IOUS if predicted else ()):
            references, captions = _pairs(predicted, events, iou >= least)
            scores = [meteor(references, captions)] if meteor else []
            scores += [cider(references, captions), rouge_l(references, captions), *bleu(references, captions)]
            values[video, number] = [score.value or 0.0 for score in scores]
    return {name: MetricValues.mean(column) for name, column in zip(names, values.mean(axis=1).T, strict=True)}


def _pairs(
    predicted: Sequence[TimedSentence], events: Sequence[TimedSentence], overlapping: np.ndarray
) -> tuple[list[list[str]], list[str]]:
    """(references, predictions), one item per pair; a prediction without one gets the garbage word. Shape: (G, P)"""
    references, captions = [], []
    for prediction, column in zip(predicted, overlapping.T, strict=True):
        texts = [events[row].sentence for row in np.flatnonzero(column).tolist()] or [GARBAGE]
        references += [[text] for text in texts]
        captions += [prediction.sentence] * len(texts)
    return references, captions


def _interval_scores(ious: Sequence[np.ndarray]) -> dict[str, MetricValues]:
    """Agreement of the intervals alone. Shape: ious (G, P) per video

    Precision is the share of predictions that overlap an event by more than the threshold, recall the share of events
    that are overlapped by a prediction in the same way; F1 is computed from their means.
    """
    values = np.zeros((len(ious), 2, len(IOUS)))  # video, precision or recall, threshold
    for video, iou in enumerate(ious):
        events, predictions = iou.shape
        for number, threshold in enumerate(IOUS):
            hits = iou > threshold
            values[video, 0, number] = hits.any(axis=0).sum() / max(1, predictions)
            values[video, 1, number] = hits.any(axis=1).sum() / max(1, events)
    scores = {}
    for name, chosen in [("", list(range(len(IOUS))))] + [(f"@{iou}", [number]) for number, iou in enumerate(IOUS)]:
        part = values[..., chosen]
        scores[f"Precision{name}"] = MetricValues.mean(part[:, 0].mean(axis=-1))
        scores[f"Recall{name}"] = MetricValues.mean(part[:, 1].mean(axis=-1))
        rows = np.concatenate([part.reshape(len(ious), 2 * len(chosen)), np.ones((len(ious), 1))], axis=-1)
        scores[f"F1{name}"] = MetricValues.of(rows, _f1_of_sums)
    return scores


def _f1_of_sums(sums: np.ndarray) -> np.ndarray:
    """Mean over thresholds of the F1 of two means. Shape: (..., 2 * thresholds + 1) -> (...)"""
    precision, recall = np.split(sums[..., :-1] / sums[..., -1:], 2, axis=-1)
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0).mean(axis=-1)
