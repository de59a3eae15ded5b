"""Accuracy over one number of the protocol, such as the number of frames, of runs that differ in nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

from vidtune.evaluation.protocol import Protocol, flat_rules
from vidtune.evaluation.scores.score import Score


@dataclass(frozen=True)
class Curve:
    """The scores of runs by the number in which their protocols differ.

    Args:
        setting: name of the number, such as "preprocessing.num_frames".
        points: (number, score), by number.
    """

    setting: str
    points: tuple[tuple[float, Score], ...]


def curve_of(runs: Sequence[tuple[Protocol, Score]]) -> Curve | None:
    """Returns the curve of runs of one checkpoint; None where they differ in more than one number, or in none."""
    rules = [flat_rules(protocol.model_dump(mode="json")) for protocol, _ in runs]
    if len(rules) < 2:
        return None
    names = {name for one in rules for name in one if any(other.get(name) != one[name] for other in rules)}
    if len(names) != 1:
        return None
    [name] = names
    values = [one.get(name) for one in rules]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values):
        return None
    points = [(value, score) for value, (_, score) in zip(numbers, runs, strict=True)]
    return Curve(name, tuple(sorted(points, key=lambda point: point[0])))
