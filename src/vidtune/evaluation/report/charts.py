"""What the plots of a page show: values of runs by question type, by length of the video, by a setting, by step."""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidtune.evaluation.outcome import Metric, Outcome, rows_of
from vidtune.evaluation.protocol import Protocol, flat_rules
from vidtune.evaluation.report.shown import Shown
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.score import Score
from vidtune.evaluation.statistics import Estimate
from vidtune.machine.records import read_records

LENGTHS = (0, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)
"""Seconds at which the classes of video lengths begin."""
_STEP = re.compile(r"(?:checkpoint|step|global_step)[-_]?(\d+)")


@dataclass(frozen=True)
class Row:
    """One line of a plot: a question type or a class of lengths, with one value per run; None: the run has none."""

    name: str
    note: str
    values: tuple[Estimate | None, ...]


@dataclass(frozen=True)
class Bars:
    """Values of runs in named rows."""

    title: str
    metric: Shown
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Curve:
    """Values over a number, such as the number of frames.

    Args:
        lines: name of the line -> (number, value), by number.
    """

    title: str
    metric: Shown
    across: str
    lines: Mapping[str, tuple[tuple[float, Estimate], ...]]


def by_type(scores: Sequence[Score], types: Sequence[str], metric: Shown) -> Bars | None:
    """The values of every question type that has this metric; None: no type has it."""
    rows = []
    for kind in types:
        groups = [next((group for group in score.groups if group.type == kind), None) for score in scores]
        found = [
            next((metric.scaled(value.official) for value in group.values if value.name == metric.name), None)
            if group is not None
            else None
            for group in groups
        ]
        if any(found):
            questions = max(group.questions for group in groups if group is not None)
            rows.append(Row(kind, counted(questions, "question"), tuple(found)))
    return Bars("By question type", metric, tuple(rows)) if rows else None


def by_length(
    outcomes: Sequence[Sequence[Outcome]], seconds: Mapping[str, float], metric: Metric, shown: Shown
) -> Bars | None:
    """The values of classes of video lengths; None: all videos are in one class.

    Args:
        outcomes: those of each run.
        seconds: video -> its length; videos that are not in it are in no class.
    """
    videos: dict[int, list[str]] = {}
    for video, length in seconds.items():
        videos.setdefault(bisect_right(LENGTHS, length) - 1, []).append(video)
    if len(videos) < 2:
        return None
    rows = []
    for place in sorted(videos):
        mine = set(videos[place])
        found = tuple(
            shown.scaled(metric.estimate(*rows_of([one for one in run if one.video in mine], metric, strict=False)))
            if any(metric.name in one.official for one in run if one.video in mine)
            else None
            for run in outcomes
        )
        rows.append(Row(_length_text(place), counted(len(mine), "video"), found))
    return Bars("By length of the video", shown, tuple(rows))


def over_setting(runs: Sequence[tuple[RunFolder, Score]], metric: Shown) -> Curve | None:
    """Values over the one number in which the protocols of runs of one checkpoint differ; None: there is none."""
    if len({run.info.checkpoint.fingerprint for run, _ in runs}) != 1:
        return None
    setting = _only_difference([run.info.protocol for run, _ in runs])
    if setting is None:
        return None
    name, numbers = setting
    points = [
        (number, value)
        for number, (_, score) in zip(numbers, runs, strict=True)
        if (value := _overall(score, metric)) is not None
    ]
    words = name.rpartition(".")[2].replace("_", " ")
    title = "By number of frames" if words == "num frames" else f"By {words}"
    return Curve(title, metric, name, {"": tuple(sorted(points, key=lambda point: point[0]))})


def over_steps(runs: Sequence[tuple[RunFolder, Score]], metric: Shown) -> Curve | None:
    """Values over training steps, a line per protocol and training run; None: no two checkpoints of one are there."""
    lines: dict[tuple[str, str], dict[int, Estimate]] = {}
    for run, score in runs:
        checkpoint, value = Path(run.info.checkpoint.path), _overall(score, metric)
        step = step_of(checkpoint)
        if step is not None and value is not None:
            lines.setdefault((str(checkpoint.parent), run.info.protocol_hash), {})[step] = value
    kept = {key: found for key, found in lines.items() if len(found) > 1}
    if not kept:
        return None
    folders = {folder for folder, _ in kept}
    names = {key: key[0] if len(folders) == len(kept) else " ".join(key) for key in kept}
    named = {names[key] if len(kept) > 1 else "": tuple(sorted(found.items())) for key, found in kept.items()}
    return Curve("Over training", metric, "training step", named)


def step_of(checkpoint: Path) -> int | None:
    """Training step of a checkpoint: that of its name (``checkpoint-500``), or the last one in the log beside it."""
    found = _STEP.search(checkpoint.name)
    if found is not None:
        return int(found[1])
    log = checkpoint.parent / "log.jsonl"
    if checkpoint.name != "final" or not log.is_file():
        return None
    steps = [line["step"] for line in read_records(log) if isinstance(line.get("step"), int)]
    return max(steps, default=None)


def counted(number: int, what: str) -> str:
    """For example ``3 questions``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _overall(score: Score, metric: Shown) -> Estimate | None:
    values = () if score.overall is None else score.overall.values
    return next((metric.scaled(value.official) for value in values if value.name == metric.name), None)


def _only_difference(protocols: Sequence[Protocol]) -> tuple[str, list[float]] | None:
    """Name and values of the one rule, a number, in which protocols differ."""
    rules = [flat_rules(protocol.model_dump(mode="json")) for protocol in protocols]
    names = {name for one in rules for name in one if any(other.get(name) != one[name] for other in rules)}
    if len(rules) < 2 or len(names) != 1:
        return None
    [name] = names
    values = [one.get(name) for one in rules]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return (name, numbers) if len(numbers) == len(values) else None


def _length_text(place: int) -> str:
    if place == len(LENGTHS) - 1:
        return f"over {_seconds(LENGTHS[place])}"
    return f"{_seconds(LENGTHS[place])} to {_seconds(LENGTHS[place + 1])}"


def _seconds(number: int) -> str:
    return f"{number // 60} min" if number >= 60 else f"{number} s"
