"""Measure the stored predictions of a run by the metrics of its benchmark: offline, repeatable, no judge.

``measurements.jsonl`` gets one line per question: what it adds to each metric. ``scores/metrics.json`` holds the
numbers made of them. Values are in percent: fractions times 100, as published (CIDEr: its own scale times 100).

========  ==================================================================================================
official  over the answered questions, as the published scripts do: videos without a prediction are in no number
strict    over all questions of the run: missing videos, errors and what was not asked yet count as empty answers
========  ==================================================================================================
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks import list_benchmarks
from vidtune.evaluation.benchmarks.measured import Item, Measured, MeasuredBenchmark, Metric
from vidtune.evaluation.metrics.base import TaskValues, mean_of_sums
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.identity import CheckpointIdentity
from vidtune.evaluation.statistics import LEVEL, METHOD, Estimate, of_sums, ratio
from vidtune.machine.files import write_text_atomically
from vidtune.machine.records import read_records

METRICS = "metrics"
"""Stands where a judge's name would: of the score file, and in reports."""
PERCENT = 100.0


class MetricValue(BaseModel):
    """One metric of one task, in percent.

    Args:
        official, strict: see the top of this file; None with a ``reason``.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    official: Estimate | None
    strict: Estimate | None
    reason: str | None = None


class Task(BaseModel):
    """The metrics of the questions of one type, and what stands behind them.

    Args:
        questions: of the run; ``answered`` of them are in the official values.
        unanswered: not asked yet.
        empty: answers without any text.
        unread: answers in which nothing of the form asked for could be read; they count, as nothing.
    """

    model_config = ConfigDict(frozen=True)

    type: str
    questions: int
    answered: int
    missing: int
    errors: int
    unanswered: int
    empty: int
    unread: int
    videos: int
    metrics: tuple[MetricValue, ...]

    def metric(self, name: str) -> MetricValue:
        """The metric of this name."""
        return next(metric for metric in self.metrics if metric.name == name)


class MetricScore(BaseModel):
    """The metrics of one run; stored in ``scores/metrics.json``.

    Args:
        coverage: answered questions of all questions of the run.
        measuring: what the metrics were computed with.
        left_out: metric -> why it could not be computed; scoring again where it can adds it.
        intervals: how the 95 % intervals were made.
    """

    model_config = ConfigDict(frozen=True)

    benchmark: str
    blind: bool
    without: tuple[str, ...] = ()
    protocol_hash: str
    checkpoint: CheckpointIdentity
    system: str | None
    judge: str = METRICS
    measuring: dict[str, Any]
    intervals: str = f"{LEVEL:.0%}, {METHOD}"
    coverage: float
    left_out: dict[str, str]
    tasks: tuple[Task, ...]

    def task(self, type: str) -> Task:
        """The task of this question type."""
        return next(task for task in self.tasks if task.type == type)


@dataclass(frozen=True)
class Measurement:
    """One line of ``measurements.jsonl``: what a question adds to each metric.

    Args:
        answered: whether it is in the official values.
        values: metric -> the value of this answer alone, in percent.
        official, strict: metric -> (S,) sums; nothing in ``official`` unless answered.
    """

    index: int
    video: str
    type: str
    answered: bool
    values: Mapping[str, float]
    official: Mapping[str, Sequence[float]]
    strict: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The line; ``strict`` holds only what differs from ``official``."""
        strict = {name: row for name, row in self.strict.items() if row != self.official.get(name)}
        values = {name: round(value, 4) for name, value in self.values.items()}
        return {
            "index": self.index,
            "video": self.video,
            "type": self.type,
            "answered": self.answered,
            "values": values,
            "official": dict(self.official),
            "strict": strict,
        }


def measured_benchmark(name: str) -> MeasuredBenchmark | None:
    """The benchmark of this name if metrics score it; None: a judge does."""
    known = {benchmark.name: benchmark for benchmark in list_benchmarks()}
    benchmark = known.get(name)
    return benchmark if isinstance(benchmark, MeasuredBenchmark) else None


def measure_run(run: RunFolder, benchmark: MeasuredBenchmark) -> MetricScore:
    """Measure all answers of a run and store what was found.

    Raises:
        UserError: nothing was asked yet, or the run holds no references.
    """
    items, errors = items_of(run)
    asked = sum(item.pred is not None for item in items)
    missing = {record["index"] for record in run.missing()}
    if not asked and not missing and not errors:
        raise UserError(f"{run.path}: no question was asked yet; run the evaluation first")
    measured = benchmark.measure(items)
    measurements = _measurements(items, measured, benchmark.metrics)
    lines = "".join(json.dumps(one.record()) + "\n" for one in measurements)
    write_text_atomically(run.path / "measurements.jsonl", lines)
    protocol = run.info.protocol
    score = MetricScore(
        benchmark=run.info.benchmark,
        blind=protocol.blind,
        without=protocol.without,
        protocol_hash=run.info.protocol_hash,
        checkpoint=run.info.checkpoint,
        system=run.info.system,
        measuring=benchmark.measuring,
        coverage=asked / len(items),
        left_out=dict(measured.left_out),
        tasks=tuple(
            _task(kind, items, measurements, measured, benchmark.metrics, missing, errors)
            for kind in dict.fromkeys(metric.type for metric in benchmark.metrics)
            if any(item.type == kind for item in items)
        ),
    )
    text = json.dumps(score.model_dump(mode="json"), indent=1)
    write_text_atomically(run.path / "scores" / f"{METRICS}.json", text + "\n")
    return score


def measurements_of(run: RunFolder) -> dict[int, Measurement]:
    """The stored measurements by question index; nothing when the run was never measured."""
    found = {}
    for record in read_records(run.path / "measurements.jsonl"):
        strict = {**record["official"], **record["strict"]}
        found[record["index"]] = Measurement(**{**record, "strict": strict})
    return found


def items_of(run: RunFolder) -> tuple[list[Item], set[int]]:
    """Every question of the run with its answer, in the order of the test set, and the indices of those that failed."""
    predictions = {prediction.index: prediction for prediction in run.predictions()}
    items = []
    for line in run.references():
        prediction = predictions.get(line["index"])
        answered = prediction is not None and prediction.error is None
        items.append(
            Item(
                index=line["index"],
                id=line["id"],
                video=line["video"],
                type=line["type"],
                reference=line["reference"],
                pred=prediction.pred if prediction is not None and answered else None,
            )
        )
    if not items:
        raise UserError(f"{run.path}: no references.jsonl here, with which metrics compare; run the evaluation again")
    return items, {index for index, prediction in predictions.items() if prediction.error is not None}


def rows_of(measurements: Sequence[Measurement], metric: Metric, strict: bool) -> tuple[np.ndarray, list[str]]:
    """What these questions add to a metric, and their videos. Shape: (Q, S), (Q,)"""
    rows, videos = [], []
    for one in measurements:
        row = (one.strict if strict else one.official).get(metric.name)
        if one.type == metric.type and row is not None:
            rows.append(row)
            videos.append(one.video)
    return np.array(rows, dtype=np.float64), videos


def estimate(rows: np.ndarray, videos: Sequence[str], metric: Metric) -> Estimate | None:
    """A metric in percent with its interval. Shape: (Q, S), (Q,)"""
    if metric.from_sums is not mean_of_sums:
        return percent(of_sums(rows, metric.from_sums, videos))
    tops, bottoms = rows.reshape(-1, 2).T.tolist()
    return percent(ratio(tops, bottoms, videos, bounds=(0.0, metric.highest)))


def percent(fraction: Estimate | None) -> Estimate | None:
    """The same estimate times 100."""
    if fraction is None or fraction.low is None or fraction.high is None:
        return fraction and fraction.model_copy(update={"value": PERCENT * fraction.value})
    numbers = {name: PERCENT * getattr(fraction, name) for name in ("value", "low", "high")}
    return fraction.model_copy(update=numbers)


def _measurements(items: Sequence[Item], measured: Measured, metrics: Sequence[Metric]) -> list[Measurement]:
    official, strict = _rows(measured.official, metrics), _rows(measured.strict, metrics)
    values = _values(measured.official, metrics)
    return [
        Measurement(
            index=item.index,
            video=item.video,
            type=item.type,
            answered=item.pred is not None,
            values=values.get(item.index, {}),
            official=official.get(item.index, {}),
            strict=strict.get(item.index, {}),
        )
        for item in items
    ]


def _rows(scored: Mapping[str, TaskValues[int]], metrics: Sequence[Metric]) -> dict[int, dict[str, list[float]]]:
    """Question index -> metric -> (S,) sums."""
    rows: dict[int, dict[str, list[float]]] = {}
    for metric in metrics:
        if metric.type in scored and metric.name in scored[metric.type].metrics:
            statistics = scored[metric.type].metrics[metric.name].statistics
            for index, row in zip(scored[metric.type].ids, statistics.tolist(), strict=True):
                rows.setdefault(index, {})[metric.name] = row
    return rows


def _values(scored: Mapping[str, TaskValues[int]], metrics: Sequence[Metric]) -> dict[int, dict[str, float]]:
    """Question index -> what a metric calls the value of one answer -> that value in percent."""
    values: dict[int, dict[str, float]] = {}
    for metric in metrics:
        if metric.of_one is not None and metric.type in scored and metric.name in scored[metric.type].metrics:
            per_item = scored[metric.type].metrics[metric.name].per_item
            for index, value in zip(scored[metric.type].ids, per_item.tolist(), strict=True):
                values.setdefault(index, {})[metric.of_one] = PERCENT * value
    return values


def _task(
    kind: str,
    items: Sequence[Item],
    measurements: Sequence[Measurement],
    measured: Measured,
    metrics: Sequence[Metric],
    missing: set[int],
    errors: set[int],
) -> Task:
    mine = [item for item in items if item.type == kind]
    answered = [item.pred for item in mine if item.pred is not None]
    rest = {item.index for item in mine if item.pred is None}
    failed = rest & errors
    lost = rest & missing - failed
    return Task(
        type=kind,
        questions=len(mine),
        answered=len(answered),
        missing=len(lost),
        errors=len(failed),
        unanswered=len(rest) - len(lost) - len(failed),
        empty=sum(not pred for pred in answered),
        unread=len(measured.official[kind].unparsed),
        videos=len({item.video for item in mine}),
        metrics=tuple(
            _value(metric, measurements, measured.left_out.get(metric.name), bool(answered))
            for metric in metrics
            if metric.type == kind
        ),
    )


def _value(metric: Metric, measurements: Sequence[Measurement], left_out: str | None, answered: bool) -> MetricValue:
    if left_out is not None:
        return MetricValue(name=metric.name, official=None, strict=None, reason=left_out)
    official, strict = (estimate(*rows_of(measurements, metric, strict), metric) for strict in (False, True))
    reason = None if answered else "no question of this task was answered"
    return MetricValue(name=metric.name, official=official, strict=strict, reason=reason)
