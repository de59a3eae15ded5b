"""Measure the stored predictions of a run by the metrics of its benchmark: offline, repeatable, without a judge.

``measurements.jsonl`` gets one line per question: the sums that it adds to each metric. Values are in percent:
fractions times 100, as published (CIDEr: its own scale times 100).

========  ==================================================================================================
official  over the answered questions, as the published scripts do: videos without a prediction are in no number, nor
          is an answer that the published scorer leaves out (`TaskValues.excluded`)
strict    over all questions of the run: missing videos, errors and what was not asked yet count as empty answers
========  ==================================================================================================
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.measured import Item, Measured, MeasuredBenchmark
from vidtune.evaluation.ledger import Entry, Judging, Ledger
from vidtune.evaluation.metrics.base import TaskValues
from vidtune.evaluation.outcome import Collected, Metric, Outcome, ScoreSource
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.runs.run_ledger import ledger_of, require_asked
from vidtune.evaluation.scores.score import METRICS
from vidtune.machine.records import read_as, write_records

FILE = "measurements.jsonl"
Rows = dict[int, dict[str, list[float]]]
"""Question index -> metric -> (S,) sums."""


class Measurements(ScoreSource):
    """What metrics compute from the answers of a run."""

    name = METRICS

    def __init__(self, run: RunFolder, benchmark: MeasuredBenchmark) -> None:
        self.run = run
        self.benchmark = benchmark.under(run.info.protocol)
        self.metrics = self.benchmark.metrics

    def collect(self, progress: bool) -> Collected:
        ledger = ledger_of(self.run)
        items = self._items(ledger)
        require_asked(self.run, ledger.entries)
        measured = self.benchmark.measure(items)
        outcomes = _outcomes(ledger, measured, self._official(items, measured), self.metrics)
        write_records(self.run.path / FILE, map(_record, outcomes))
        return Collected(outcomes=outcomes, identity=self.benchmark.measuring, left_out=measured.left_out)

    def _official(self, items: Sequence[Item], measured: Measured) -> Rows:
        """What questions add to official values: with all answers of an imported log where every one counts."""
        official = _rows(measured.official, self.metrics)
        counting = [item for item in items if item.type in self.benchmark.every_answer_counts]
        known = {item.index: item for item in counting if item.pred is not None}
        rounds: list[dict[int, Item]] = []
        for one in self.run.earlier_answers():
            if one.index in known and one.error is None:
                free = next((found for found in rounds if one.index not in found), None)
                if free is None:
                    rounds.append(free := {})
                free[one.index] = replace(known[one.index], pred=one.pred)
        for answers in rounds:
            for index, rows in _rows(self.benchmark.measure(list(answers.values())).official, self.metrics).items():
                added = official.setdefault(index, {})
                for name, row in rows.items():
                    added[name] = [a + b for a, b in zip(added.get(name, [0.0] * len(row)), row, strict=True)]
        return official

    def stored(self) -> list[Outcome]:
        entries = {entry.index: entry for entry in ledger_of(self.run).entries}
        found = read_as(
            self.run.path / FILE,
            lambda record: _stored(entries[record["index"]], record) if record["index"] in entries else None,
        )
        outcomes = [outcome for outcome in found if outcome is not None]
        if not outcomes:
            raise UserError(f"{self.run.path}: not scored yet; score both runs first")
        return sorted(outcomes, key=lambda outcome: outcome.index)

    def no_value(self, metric: Metric, outcomes: Sequence[Outcome]) -> str | None:
        if any(outcome.entry.counted for outcome in outcomes):
            return None
        answered = any(outcome.entry.answered for outcome in outcomes)
        return "no answer of this task counts" if answered else "no question of this task was answered"

    def _items(self, ledger: Ledger) -> list[Item]:
        """Every question of the run with its answer, in the order of the test set."""
        predictions = enumerate(self.run.predictions())
        answers = {one.index: (one, place) for place, one in predictions if one.error is None}
        references = {line["index"]: line["reference"] for line in self.run.references()}
        lacking = sum(entry.index not in references for entry in ledger.entries)
        if lacking:
            what = f"references.jsonl lacks {lacking} questions" if references else "no references.jsonl here"
            raise UserError(f"{self.run.path}: {what}, with which metrics compare; run the evaluation again")
        return [
            Item(
                index=entry.index,
                id=entry.id,
                video=entry.video,
                type=entry.type or "",
                reference=references[entry.index],
                pred=None if one is None else one.pred,
                place=place,
                second=None if one is None or one.second is None else one.second["pred"],
            )
            for entry in ledger.entries
            for one, place in [answers.get(entry.index, (None, 0))]
        ]


def _outcomes(ledger: Ledger, measured: Measured, official: Rows, metrics: Sequence[Metric]) -> list[Outcome]:
    strict = _rows(measured.strict, metrics)
    values = _values(measured.official, metrics)
    unread = {index for task in measured.official.values() for index in task.unparsed}
    excluded = {index: reason for task in measured.official.values() for index, reason in task.excluded.items()}
    return [
        Outcome(
            _measured(entry, entry.index in unread, excluded.get(entry.index)),
            official=official.get(entry.index, {}),
            strict=strict.get(entry.index, {}),
            verdict="measured" if entry.answered else None,
            values=values.get(entry.index, {}),
        )
        for entry in ledger.entries
    ]


def _measured(entry: Entry, unread: bool, excluded: str | None) -> Entry:
    """Args: excluded: why the published scorer leaves the answer out; None: it does not."""
    if not entry.answered:
        return entry
    if excluded is not None:
        return replace(entry, judging=Judging.EXCLUDED, reason=excluded)
    return replace(entry, judging=Judging.UNREAD if unread else Judging.JUDGED)


def _rows(scored: Mapping[str, TaskValues[int]], metrics: Sequence[Metric]) -> Rows:
    rows: Rows = {}
    for metric, task in _computed(scored, metrics):
        for index, row in zip(task.ids, task.metrics[metric.name].statistics.tolist(), strict=True):
            rows.setdefault(index, {})[metric.name] = row
    return rows


def _values(scored: Mapping[str, TaskValues[int]], metrics: Sequence[Metric]) -> dict[int, dict[str, float]]:
    """Question index -> name of a metric's value of one answer -> that value, scaled."""
    values: dict[int, dict[str, float]] = {}
    for metric, task in _computed(scored, metrics):
        if metric.of_one is not None:
            for index, value in zip(task.ids, task.metrics[metric.name].per_item.tolist(), strict=True):
                values.setdefault(index, {})[metric.of_one] = metric.scale * value
    return values


def _computed(
    scored: Mapping[str, TaskValues[int]], metrics: Sequence[Metric]
) -> Iterator[tuple[Metric, TaskValues[int]]]:
    """The metrics that could be computed, each with the values of its question type, or of every one."""
    for metric in metrics:
        for kind, task in scored.items():
            if metric.type in (None, kind) and metric.name in task.metrics:
                yield metric, task


def _record(outcome: Outcome) -> dict[str, Any]:
    """The line of ``measurements.jsonl``; ``strict`` holds only what differs from ``official``."""
    return {
        "index": outcome.index,
        "video": outcome.video,
        "type": outcome.type,
        "answered": outcome.entry.counted,
        **({"excluded": outcome.entry.reason} if outcome.entry.judging is Judging.EXCLUDED else {}),
        "values": {name: round(value, 4) for name, value in outcome.values.items()},
        "official": dict(outcome.official),
        "strict": {name: row for name, row in outcome.strict.items() if row != outcome.official.get(name)},
    }


def _stored(entry: Entry, record: Mapping[str, Any]) -> Outcome:
    """The outcome that a line of ``measurements.jsonl`` holds."""
    answered, excluded = record["answered"], record.get("excluded")
    return Outcome(
        _measured(entry, False, excluded) if answered or excluded else replace(entry, judging=None),
        official=record["official"],
        strict={**record["official"], **record["strict"]},
        verdict="measured" if answered else None,
        values=record["values"],
    )
