"""A score as lines of text."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vidtune.evaluation.benchmarks.base import medium_of_benchmark
from vidtune.evaluation.ledger import Asking, Judging

if TYPE_CHECKING:
    from vidtune.evaluation.scores.score import NamedValue, Score, ScoreGroup
    from vidtune.evaluation.statistics import Estimate


def score_lines(score: "Score") -> Iterator[str]:
    """Yield the values of a run with their intervals, and what is not in them."""
    yield _title(score)
    if score.overall is not None:
        yield from _overall_lines(score.overall) if says_yes(score) else _task_lines(score, score.overall)
    for group in score.groups:
        brief = says_yes(score) or (score.measured and [value.name for value in group.values] == ["accuracy"])
        yield from _type_lines(group) if brief and score.overall is not None else _task_lines(score, group)
    if score.overall is not None and score.overall.reason:
        name = next(value.name for value in score.overall.values if value.reason)
        yield f"  no {name}: {score.overall.reason}"
    if score.fragile:
        yield f"  {fragile_text(score)}"
    yield from (f"  {line}" for line in score.reasons)
    for reason, names in _by_reason(score).items():
        yield f"  left out: {', '.join(names)}: {reason}"


def table_lines(scores: Mapping[str, "Score"], name: str = "accuracy") -> Iterator[str]:
    """Yield one table of a value of several runs of a test set: a row for all questions and for each type.

    Args:
        scores: title of the column -> score.
    """
    first = next(iter(scores.values()))
    kinds = [group.type for group in first.parts]
    titles = ["all" if kind is None else kind for kind in kinds]
    left, wide = max(map(len, titles)) + 2, [max(len(title), 4) + 2 for title in scores]
    yield " " * left + f"{'questions':>11}" + "".join(f"{t:>{w}}" for t, w in zip(scores, wide, strict=True))
    for title, kind in zip(titles, kinds, strict=True):
        values = [score.value(name, kind).official for score in scores.values()]
        told = ["-" if value is None else f"{value.value:.2f}" for value in values]
        row = "".join(f"{text:>{w}}" for text, w in zip(told, wide, strict=True))
        yield f"{title:<{left}}{first.group(kind).questions:>11}{row}"


def says_yes(score: "Score") -> bool:
    """Whether a judge said yes or no: then there are accuracy and average score."""
    overall = score.overall
    return overall is not None and not score.measured and any(value.name == "accuracy" for value in overall.values)


def _title(score: "Score") -> str:
    blind = f", blind ({'black frames, silence' if score.measured else 'black frames'})" if score.blind else ""
    without = f", without {', '.join(score.without)}" if score.without else ""
    by = "metrics in %" if score.measured else f"judge {score.judge}"
    return f"{score.benchmark}{blind}{without}: {by}, protocol {score.protocol_hash}"


def _overall_lines(group: "ScoreGroup") -> Iterator[str]:
    """Accuracy and average score over all questions, and what is not counted."""
    accuracy, average = group.value("accuracy"), group.value("average_score")
    yield f"  accuracy       {estimate_text(accuracy.official)}  {group.yes} of {group.yes + group.no} right"
    yield f"  average score  {estimate_text(average.official)}  of 5"
    if among := answers_text(group):
        yield f"  among them     {among}"
    if left_out := counts_text(group):
        # An answer whose id comes again has a verdict, which counts in the strict value.
        over = f"over all {group.questions} questions" if group.repeated else "with these as wrong"
        yield f"  not counted    {left_out}; {over}: {estimate_text(accuracy.strict)}"
    published = [(value.name, value.published) for value in group.values if value.published is not None]
    if published:
        numbers = ", ".join(f"{name.replace('_', ' ')} {number:.2f}" for name, number in published)
        yield f"  as published   {numbers}: scores outside 0 to 5 added, unreadable ones as 0"


def counts_text(group: "ScoreGroup") -> str:
    """The planned questions that are in no official value, by state; for example ``2 without file, 1 failed``."""
    left_out: dict[str, int] = {
        Asking.NO_FILE: group.missing,
        Asking.FAILED: group.errors,
        Asking.NOT_ASKED: group.unanswered,
        Judging.EXCLUDED: group.excluded,
        Judging.OUT_OF_RANGE: group.out_of_range,
        Judging.UNREADABLE: group.unreadable,
        Judging.FAILED: group.judge_failed,
        Judging.NOT_JUDGED: group.not_judged,
        "with an id that comes again": group.repeated,
    }
    return _counts(left_out)


def answers_text(group: "ScoreGroup") -> str:
    """Answers with something unusual, by what is the matter; for example ``1 empty, 2 neither yes nor no``."""
    notes: dict[str, int] = {"empty": group.empty, Judging.NO_VERDICT: group.unclear, Judging.UNREAD: group.unread}
    return _counts(notes | {"under similar names": group.similar, "judged by a reply read leniently": group.lenient})


def fragile_text(score: "Score") -> str:
    """The number of fragile answers, and the first of them; a score of an earlier version does not name them."""
    first = f" ({score.fragile_examples})" if score.fragile_examples else ""
    return f"{score.fragile} of {score.with_margin} greedy answers are fragile: rounding alone can change them{first}"


def _type_lines(group: "ScoreGroup") -> Iterator[str]:
    """The accuracy of one question type."""
    accuracy = group.value("accuracy").official
    yield f"  {group.type:14} {estimate_text(accuracy)}  {group.yes} of {group.yes + group.no}"


def _task_lines(score: "Score", group: "ScoreGroup") -> Iterator[str]:
    """The values of a question type that has metrics of its own, with the strict value where it differs."""
    notes = ", ".join(filter(None, (counts_text(group), answers_text(group))))
    coverage = f"{group.scored} of {group.questions} answered, {group.videos} {medium_of_benchmark(score.benchmark)}s"
    yield f"  {group.type or 'all'}: {coverage}{'; ' if notes else ''}{notes}"
    for value in group.values:
        if value.name not in score.left_out:
            published = "" if value.published is None else f"  as published {value.published:.2f}"
            yield f"    {value.name:12} {estimate_text(value.official)}{_strict(value)}{published}"


def _strict(value: "NamedValue") -> str:
    if not (value.official and value.strict and value.strict.value != value.official.value):
        return ""
    return f"  strict {estimate_text(value.strict)}"


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in numbers.items() if count)


def _by_reason(score: "Score") -> dict[str, list[str]]:
    """Reason -> metrics that could not be computed because of it."""
    names: dict[str, list[str]] = {}
    for name, reason in score.left_out.items():
        names.setdefault(reason, []).append(name)
    return names


def estimate_text(estimate: "Estimate | None") -> str:
    """For example ``0.81 [0.74, 0.88]``."""
    if estimate is None:
        return "none"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f} [{estimate.without_interval}]"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
