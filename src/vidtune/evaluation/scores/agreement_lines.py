"""The agreement of two judges as lines of text."""

from collections.abc import Iterator

from vidtune.evaluation.scores.changed import Said
from vidtune.evaluation.scores.comparison_lines import LONGEST_ANSWER, difference_table, shortened
from vidtune.evaluation.scores.judge_agreement import JudgeAgreement, JudgedTwice, Kappa
from vidtune.evaluation.scores.score_lines import estimate_text


def agreement_lines(found: JudgeAgreement, shown: int = 5) -> Iterator[str]:
    """Yield what two judges say of one run.

    Args:
        shown: number of answers that are shown of those of which they say something else.
    """
    yield f"{found.run}: judges A {found.first} and B {found.second}"
    yield f"  judged by both {found.both}, only by A {found.only_first}, only by B {found.only_second}"
    if found.verdicts is not None:
        yield f"  verdicts       {_kappa_text(found.verdicts, 'kappa')}"
        for one, others in found.table.items():
            yield f"    A {one:8}" + ", ".join(f"B {other} {count}" for other, count in others.items())
    if found.points is not None:
        yield f"  points         {_kappa_text(found.points, 'kappa with quadratic weights')}"
    if found.mean_points is not None:
        yield f"    mean by A {found.mean_points[0]:.3f}, by B {found.mean_points[1]:.3f}"
    yield from difference_table(found.differences, "B")
    yield f"  differing: {len(found.differing)} answers"
    for twice in found.differing[:shown]:
        yield from _answer_lines(twice)
    if len(found.differing) > shown:
        yield f"    and {len(found.differing) - shown} more; --changed N shows more, --json all"
    yield f"interval: {found.intervals}"


def kappa_text(found: Kappa | None) -> str:
    """Kappa with its interval, or why there is none; "–" where the judges do not say such things."""
    if found is None:
        return "–"
    return "none: both say one thing of all" if found.kappa is None else estimate_text(found.kappa)


def said_text(said: Said, points: float | None) -> str:
    """What one judge says of an answer; for example ``wrong, 2 points``."""
    score = "" if points is None or said.verdict.endswith("points") else f", {points:g} points"
    return f"{said.verdict}{score}"


def _kappa_text(found: Kappa, name: str) -> str:
    return f"{found.alike} of {found.answers} alike, {estimate_text(found.share)}; {name} {kappa_text(found)}"


def _answer_lines(twice: JudgedTwice) -> Iterator[str]:
    yield f"    {twice.id} ({twice.video}): {shortened(twice.question)}  [{shortened(twice.answer)}]"
    yield f"      answer: {shortened(twice.first.pred, LONGEST_ANSWER)}"
    said = zip("AB", (twice.first, twice.second), twice.points, strict=True)
    yield f"      {'; '.join(f'{name}: {said_text(one, points)}' for name, one, points in said)}"
