"""Two judges of the same answers: how far they agree, and where they do not.

Cohen's kappa (1960) is agreement beyond what judges with these frequencies would reach by chance: 1 is perfect, 0 is
chance. Scores are compared by kappa with quadratic weights (Cohen 1968): a difference of two points weighs four times
one of a single point. Both are functions of sums over the answers, so their intervals are those of scores: whole videos
are left out.

Legend: Q answers that both have judged, S sums.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from vidtune.errors import UserError
from vidtune.evaluation.judges.base import is_name_of
from vidtune.evaluation.outcome import Outcome
from vidtune.evaluation.question import Prediction
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.evaluation.scores.changed import Said, verdict_text
from vidtune.evaluation.scores.comparison import ValueDifference, compared_values, value_difference
from vidtune.evaluation.scores.judging import Verdicts
from vidtune.evaluation.scores.scoring import source_for
from vidtune.evaluation.statistics import LEVEL, METHOD, Estimate, of_sums

VERDICTS = ("right", "wrong", "unclear")
KAPPA_BOUNDS = (-1.0, 1.0)


class NothingInCommonError(UserError):
    """Two judges of a run, without an answer that both have a verdict on."""


class Kappa(BaseModel):
    """Agreement of two judges over the answers that both have judged.

    Args:
        answers: number of these answers.
        alike: number of them of which both say the same.
        share: ``alike`` over ``answers``, with its interval.
        kappa: None: both judges say the same of every answer, so that there is no chance to compare with.
    """

    model_config = ConfigDict(frozen=True)

    answers: int
    alike: int
    share: Estimate
    kappa: Estimate | None


class JudgedTwice(BaseModel):
    """An answer of which two judges say something else; what they say is ``verdict``, ``points`` the scores."""

    model_config = ConfigDict(frozen=True)

    index: int
    id: str
    video: str
    type: str | None
    question: str
    answer: str
    first: Said
    second: Said
    points: tuple[float | None, float | None]


class JudgeAgreement(BaseModel):
    """Two judges of one run.

    Args:
        first, second: names of the judges.
        both: number of answers that both have judged.
        only_first, only_second: numbers of those that only one has a verdict on that counts.
        verdicts: right, wrong and unclear; None where the judges give points alone.
        table: first judge's verdict -> second judge's verdict -> number of answers.
        points: kappa with quadratic weights of the scores.
        mean_points: mean score by each judge, over the answers of ``points``.
        differences: first minus second judge, of each value of the score.
        differing: the answers of which they say something else: other verdicts first, then the largest distances.
    """

    model_config = ConfigDict(frozen=True)

    run: str
    first: str
    second: str
    both: int
    only_first: int
    only_second: int
    verdicts: Kappa | None
    table: dict[str, dict[str, int]] = {}
    points: Kappa | None
    mean_points: tuple[float, float] | None = None
    differences: tuple[ValueDifference, ...] = ()
    differing: tuple[JudgedTwice, ...] = ()
    intervals: str = f"{LEVEL:.0%}, {METHOD}"


@dataclass(frozen=True)
class _Both:
    """One answer with both outcomes."""

    first: Outcome
    second: Outcome

    @property
    def verdicts(self) -> tuple[str | None, str | None]:
        return self.first.verdict, self.second.verdict

    @property
    def points(self) -> tuple[float | None, float | None]:
        return self.first.points, self.second.points


def compare_judges(run_dir: Path, first: str, second: str, draws: int = 0) -> JudgeAgreement:
    """Compare the stored verdicts of two judges on the answers of one run.

    Args:
        first, second: names of judges as the run has them, or without the hash or version at their end where that
            names one judge.
        draws: number of draws of the bootstrap of the differences; 0: none.

    Raises:
        NothingInCommonError: no answer has both verdicts.
        UserError: metrics score the run, one judge has not judged it or its verdicts cannot be read, or both are one.
    """
    run = RunFolder(run_dir)
    first, second = _judge_called(run, first), _judge_called(run, second)
    if first == second:
        raise UserError(f"{run.path}: the judges to compare are both {first!r}; name two")
    source, other = (source_for(run, name) for name in (first, second))
    if not isinstance(source, Verdicts):
        raise UserError(f"{run.path}: {run.info.benchmark} is scored by metrics, no judge is asked")
    pairs = [_Both(*pair) for pair in zip(source.stored(), other.stored(), strict=True)]
    both = [pair for pair in pairs if pair.first.entry.counted and pair.second.entry.counted]
    if not both:
        raise NothingInCommonError(f"{run.path}: no answer has a verdict by {first!r} and one by {second!r}")
    said = [pair for pair in both if all(verdict in VERDICTS for verdict in pair.verdicts)]
    scored = [pair for pair in both if None not in pair.points]
    outcomes = [(pair.first, pair.second) for pair in both]
    return JudgeAgreement(
        run=str(run.path),
        first=source.name,
        second=other.name,
        both=len(both),
        only_first=sum(pair.first.entry.counted and not pair.second.entry.counted for pair in pairs),
        only_second=sum(pair.second.entry.counted and not pair.first.entry.counted for pair in pairs),
        verdicts=_kappa(_verdict_rows(said), _verdict_kappa, said) if said else None,
        table=_table(said),
        points=_kappa(_point_rows(scored), _point_kappa, scored) if scored else None,
        mean_points=_means(scored) if scored else None,
        differences=tuple(
            value_difference(metric, kind, outcomes, draws)
            for metric, kind in compared_values(source.metrics, [one for one, _ in outcomes])
        ),
        differing=_differing(run, source, both),
    )


def _judge_called(run: RunFolder, name: str) -> str:
    """The name of the judge that is meant; the given one where none, or more than one, is."""
    known = run.judges()
    meant = [one for one in known if is_name_of(name, one)]
    return meant[0] if name not in known and len(meant) == 1 else name


def _kappa(rows: np.ndarray, kappa: Callable[[np.ndarray], np.ndarray], pairs: Sequence[_Both]) -> Kappa:
    """The agreement that rows of sums say. Shape: (Q, S) with the number of answers and of agreements first"""
    videos = [pair.first.video for pair in pairs]
    share = of_sums(rows[:, :2], lambda sums: sums[..., 1] / sums[..., 0], videos)
    assert share is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        defined = np.isfinite(kappa(rows.sum(axis=0)))
    estimate = of_sums(rows, kappa, videos, KAPPA_BOUNDS) if defined else None
    return Kappa(answers=len(rows), alike=int(rows[:, 1].sum()), share=share, kappa=estimate)


def _verdict_rows(pairs: Sequence[_Both]) -> np.ndarray:
    """(Q, 8): one, alike, then each verdict by the first and by the second judge."""
    return np.array(
        [
            [1, one == other, *(one == verdict for verdict in VERDICTS), *(other == verdict for verdict in VERDICTS)]
            for one, other in (pair.verdicts for pair in pairs)
        ],
        dtype=np.float64,
    )


def _verdict_kappa(sums: np.ndarray) -> np.ndarray:
    """(..., 8) -> (...); NaN where both judges say one thing alone."""
    number = sums[..., 0]
    chance = (sums[..., 2:5] * sums[..., 5:8]).sum(axis=-1) / number**2
    return (sums[..., 1] / number - chance) / (1 - chance)


def _point_rows(pairs: Sequence[_Both]) -> np.ndarray:
    """(Q, 7): one, alike, both scores, both squares, squared distance."""
    rows = []
    for pair in pairs:
        one, other = (float(points or 0) for points in pair.points)
        rows.append([1, one == other, one, other, one**2, other**2, (one - other) ** 2])
    return np.array(rows, dtype=np.float64)


def _point_kappa(sums: np.ndarray) -> np.ndarray:
    """(..., 7) -> (...): one minus the mean squared distance over that of scores paired by chance."""
    number, _, one, other, one_squared, other_squared, apart = np.moveaxis(sums, -1, 0)
    by_chance = (one_squared + other_squared) / number - 2 * one * other / number**2
    return 1 - apart / number / by_chance


def _table(pairs: Sequence[_Both]) -> dict[str, dict[str, int]]:
    said = [pair.verdicts for pair in pairs]
    there = [verdict for verdict in VERDICTS if any(verdict in pair for pair in said)]
    return {one: {other: said.count((one, other)) for other in there} for one in there}


def _means(pairs: Sequence[_Both]) -> tuple[float, float]:
    one, other = (float(np.mean([pair.points[side] or 0 for pair in pairs])) for side in (0, 1))
    return one, other


def _differing(run: RunFolder, source: Verdicts, both: Sequence[_Both]) -> tuple[JudgedTwice, ...]:
    predictions = {prediction.index: prediction for prediction in run.predictions()}
    other = sorted(
        (pair for pair in both if pair.verdicts[0] != pair.verdicts[1] or pair.points[0] != pair.points[1]),
        key=lambda pair: (pair.verdicts[0] == pair.verdicts[1], -_distance(pair), pair.first.index),
    )
    return tuple(_judged_twice(source, pair, predictions[pair.first.index]) for pair in other)


def _distance(pair: _Both) -> float:
    one, other = pair.points
    return abs(one - other) if one is not None and other is not None else 0.0


def _judged_twice(source: Verdicts, pair: _Both, asked: Prediction) -> JudgedTwice:
    one, other = (
        Said(pred=asked.pred, verdict=verdict_text(source.metrics, outcome)) for outcome in (pair.first, pair.second)
    )
    return JudgedTwice(
        index=pair.first.index,
        id=pair.first.entry.id,
        video=pair.first.video,
        type=pair.first.type,
        question=asked.question,
        answer=str(asked.answer),
        first=one,
        second=other,
        points=pair.points,
    )
