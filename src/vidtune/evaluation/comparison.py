"""Two runs of one benchmark, question by question."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from vidtune.errors import UserError
from vidtune.evaluation.judges import DEFAULT_JUDGE
from vidtune.evaluation.run_folder import RunFolder
from vidtune.evaluation.score import Outcome, outcomes_of
from vidtune.evaluation.statistics import LEVEL, METHOD, Estimate, mean_difference

Pair = tuple[Outcome, Outcome]


class Comparison(BaseModel):
    """First run minus second run, over the questions that both were asked.

    Args:
        differs_in: rules in which the two protocols differ; the difference of scores is then also theirs.
        both_right, only_first, only_second, both_wrong: questions with a yes or no in both runs.
        accuracy: difference over those questions.
        strict_accuracy: difference over all common questions; whatever is missing, failed or unjudged counts as wrong.
        average_score: difference over the questions judged in both runs.
        by_type: difference in accuracy per question type.
    """

    model_config = ConfigDict(frozen=True)

    benchmark: str
    first: str
    second: str
    judge: str
    differs_in: tuple[str, ...]
    questions: int
    both_right: int
    only_first: int
    only_second: int
    both_wrong: int
    accuracy: Estimate | None
    strict_accuracy: Estimate | None
    average_score: Estimate | None
    by_type: dict[str, Estimate]
    intervals: str = f"{LEVEL:.0%}, {METHOD}, questions paired"


def compare_runs(first: Path, second: Path, judge: str = DEFAULT_JUDGE) -> Comparison:
    """Compare two runs that the same judge has judged.

    Raises:
        UserError: different benchmarks or test sets, or no common question.
    """
    one, two = RunFolder(first), RunFolder(second)
    if one.info.benchmark != two.info.benchmark:
        raise UserError(
            f"{first} is {one.info.benchmark}, {second} is {two.info.benchmark}; compare runs of one benchmark"
        )
    if one.info.data.fingerprint != two.info.data.fingerprint:
        raise UserError(
            f"{first} and {second} were asked different versions of {one.info.benchmark}; they cannot be paired"
        )
    for run in (one, two):
        if judge not in run.judges():
            known = ", ".join(run.judges()) or "none yet"
            raise UserError(f"{run.path}: no score by {judge!r} (there: {known}); judge both runs with the same judge")
    second_outcomes = {outcome.index: outcome for outcome in outcomes_of(two, judge)[0]}
    pairs = [
        (outcome, second_outcomes[outcome.index])
        for outcome in outcomes_of(one, judge)[0]
        if outcome.index in second_outcomes
    ]
    if not pairs:
        raise UserError(f"{first} and {second} have no question in common")
    decided = [pair for pair in pairs if all(outcome.verdict.correct is not None for outcome in pair)]
    judged = [pair for pair in pairs if all(outcome.status == "judged" for outcome in pair)]
    types = sorted({pair[0].type for pair in decided if pair[0].type is not None})
    by_type = {kind: _difference([pair for pair in decided if pair[0].type == kind], _right) for kind in types}

    def count(first_right: bool, second_right: bool) -> int:
        return sum((a.verdict.correct, b.verdict.correct) == (first_right, second_right) for a, b in decided)

    return Comparison(
        benchmark=one.info.benchmark,
        first=str(one.path),
        second=str(two.path),
        judge=judge,
        differs_in=_differences(one, two),
        questions=len(pairs),
        both_right=count(True, True),
        only_first=count(True, False),
        only_second=count(False, True),
        both_wrong=count(False, False),
        accuracy=_difference(decided, _right),
        strict_accuracy=_difference(pairs, _right),
        average_score=_difference(judged, _points),
        by_type={kind: estimate for kind, estimate in by_type.items() if estimate is not None},
    )


def _difference(pairs: Sequence[Pair], value: Callable[[Outcome], float]) -> Estimate | None:
    first, second = ([value(pair[side]) for pair in pairs] for side in (0, 1))
    return mean_difference(first, second, [pair[0].video for pair in pairs])


def _differences(one: RunFolder, two: RunFolder) -> tuple[str, ...]:
    first, second = (run.info.protocol.model_dump(mode="json") for run in (one, two))
    return tuple(key for key in first if first[key] != second[key])


def _right(outcome: Outcome) -> float:
    return float(outcome.verdict.correct is True)


def _points(outcome: Outcome) -> float:
    return float(outcome.verdict.score or 0)
