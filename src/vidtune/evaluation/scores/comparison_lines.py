"""Comparisons as lines of text."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from vidtune.evaluation.runs.manifest import FieldDifference
from vidtune.evaluation.scores.changed import Change, ChangedQuestion, Said
from vidtune.evaluation.scores.comparison import Comparison, ValueDifference
from vidtune.evaluation.statistics import Estimate

LONGEST_VALUE, LONGEST_ANSWER = 60, 100
MOST_FIELDS = 6
FEW_VIDEOS = 20
"""Number of videos below which percentiles of a bootstrap are too narrow, see `evaluation.bootstrap`."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def comparison_lines(comparisons: Sequence[Comparison], changed: int = 5) -> Iterator[str]:
    """Yield the comparisons of the first run with every other one.

    Args:
        changed: number of changed questions that are shown of each comparison.
    """
    first = comparisons[0]
    names = [name_of(number) for number in range(len(comparisons) + 1)]
    yield f"{first.benchmark}: {'metrics' if first.judge == 'metrics' else f'judge {first.judge}'}"
    yield from (
        f"  {name}  {path}"
        for name, path in zip(names, [first.first, *(one.second for one in comparisons)], strict=True)
    )
    for name, comparison in zip(names[1:], comparisons, strict=True):
        yield ""
        yield from _lines(comparison, name, changed)
    yield ""
    draws = next((one.bootstrap.draws for of in comparisons for one in of.differences if one.bootstrap), None)
    if draws:
        several = f", p corrected for {len(comparisons)} comparisons (Holm)" if len(comparisons) > 1 else ""
        yield f"bootstrap: {draws:,} draws of whole videos, 95 % interval and two-sided p{several}"
        if (fewest := min(one.videos for one in comparisons)) < FEW_VIDEOS:
            yield f"  too narrow on {fewest} videos (fewer than {FEW_VIDEOS}): trust the other interval, not p"
    yield f"interval: {first.intervals}"


def name_of(number: int) -> str:
    """Short name of a run: A, B, ..., Z, then by number."""
    return LETTERS[number] if number < len(LETTERS) else f"R{number + 1}"


def _lines(comparison: Comparison, name: str, changed: int) -> Iterator[str]:
    both = f"{comparison.scored} scored in both, on {comparison.videos} videos"
    yield f"A and {name}: {comparison.questions} common questions, {both}"
    yield from _manifest_lines(comparison.manifest, name)
    yield from difference_table(comparison.differences, name)
    if (agreement := comparison.agreement) is not None:
        yield (
            f"  right in both {agreement.both_right}, only in A {agreement.only_first}, "
            f"only in {name} {agreement.only_second}, in none {agreement.both_wrong}"
        )
    for run, (fragile, known) in zip(("A", name), comparison.fragile, strict=True):
        if fragile:
            yield f"  fragile in {run}: {fragile} of {known} greedy answers, which rounding alone can change"
    yield from _changed_lines(comparison.changed, name, changed)


def _manifest_lines(found: Sequence[FieldDifference], name: str) -> Iterator[str]:
    if not found:
        yield "  no field of the manifests differs"
    for number, one in enumerate(found[:MOST_FIELDS]):
        what = "first difference" if number == 0 else "also"
        yield f"  {what}: {one.name}: {shortened(one.first)} in A, {shortened(one.second)} in {name}"
    if len(found) > MOST_FIELDS:
        yield f"  and {len(found) - MOST_FIELDS} more fields; --json prints all"


def difference_table(differences: Sequence[ValueDifference], name: str) -> Iterator[str]:
    """The values of A and of ``name``, and their differences, as lines in columns."""
    rows: list[tuple[str, ...]] = [("", "A", name, f"A - {name}", "interval", "bootstrap", "p")]
    for one in differences:
        if one.official is None or one.values is None:
            continue
        label = one.name.replace("_", " ") if one.type is None else f"{one.type}: {one.name.replace('_', ' ')}"
        boot = one.bootstrap
        rows.append(
            (
                label,
                *(_number(value) for value in one.values),
                f"{one.official.value:+.3f}",
                _interval(one.official),
                "" if boot is None else f"[{boot.low:+.3f}, {boot.high:+.3f}]",
                "" if boot is None else f"{boot.p:.4f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield (
            "  "
            + "  ".join(
                cell.ljust(width) if place == 0 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
        )


def _number(value: float) -> str:
    return f"{value:.3f}"


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "none"
    return f"[{estimate.low:+.3f}, {estimate.high:+.3f}]"


def _changed_lines(found: Sequence[ChangedQuestion], name: str, shown: int) -> Iterator[str]:
    counts = Counter(one.change for one in found)
    parts = ", ".join(f"{counts[change]} {change}" for change in Change if counts[change])
    fragile = sum(one.fragile for one in found)
    note = f"; {fragile} of them fragile" if fragile else ""
    yield f"  changed: {len(found)} questions{f' ({parts}){note}' if found else ''}"
    for one in found[:shown]:
        yield f"    {one.id} ({one.video}): {shortened(one.question)}  [{shortened(one.answer)}]"
        yield f"      A: {_said(one.first)}"
        yield f"      {name}: {_said(one.second)}"
    if len(found) > shown:
        yield f"    and {len(found) - shown} more; --changed N shows more, --json all"


def _said(said: Said) -> str:
    return f"{said.verdict}{', fragile' if said.fragile else ''}: {shortened(said.pred, LONGEST_ANSWER)}"


def shortened(value: Any, longest: int = LONGEST_VALUE) -> str:
    """A value in one line of at most so many characters."""
    text = " ".join(value.split()) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= longest else text[: longest - 3] + "..."
