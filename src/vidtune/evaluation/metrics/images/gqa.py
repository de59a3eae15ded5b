"""GQA: exact answers, and the report of the published script.

Hudson and Manning, GQA, CVPR 2019, arXiv:1902.09506. The distribution compares how often answers are given with how
often they are right, within each group of questions; 0 is best.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

QUERY = "query"
"""Structural type of questions with an open answer; those of all other types are binary."""
_NO_STEPS = ("exist", "query: name", "choose name")


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of a question.

    Args:
        structural, semantic: its types.
        steps: number of steps that lead to the answer.
        words: number of words of the question.
        group: questions with the same answers to choose from; None: of no group.
        balanced: only such questions are scored.
    """

    answer: str
    structural: str
    semantic: str
    steps: int
    words: int
    group: str | None
    balanced: bool = True


def truth_of(entry: Mapping[str, Any]) -> Truth:
    """Returns what an entry of the published questions says.

    Raises:
        KeyError, TypeError: a key is missing, or its value has another form.
    """
    types = entry["types"]
    answer, group, balanced = entry["answer"], entry["groups"]["global"], entry["isBalanced"]
    if not isinstance(answer, str) or not isinstance(group, str | None) or not isinstance(balanced, bool):
        raise TypeError("text 'answer', text or null 'groups' 'global', or 'isBalanced' of true or false")
    operations = (f"{one['operation']}: {one['argument']}" for one in entry["semantic"])
    return Truth(
        answer=answer,
        structural=str(types["structural"]),
        semantic=str(types["semantic"]),
        steps=sum(not any(kind in one for kind in _NO_STEPS) for one in operations),
        words=len(str(entry["question"]).split()),
        group=group,
        balanced=balanced,
    )


def said(answer: str) -> str:
    """Returns an answer as it is compared: in lower case, without periods at its end."""
    return answer.rstrip(".").lower()


def distribution(truths: Sequence[Truth], answers: Sequence[str]) -> float:
    """Returns how far the given answers are from the right ones, in percent of nothing: a mean over groups."""
    right: dict[str, Counter[str]] = defaultdict(Counter)
    given: dict[str, Counter[str]] = defaultdict(Counter)
    for truth, answer in zip(truths, answers, strict=True):
        if truth.group is not None:
            right[truth.group][truth.answer] += 1
            given[truth.group][answer] += 1
    distances = {
        group: sum((given[group][answer] - count) ** 2 / count for answer, count in counts.items())
        for group, counts in right.items()
    }
    sizes = {group: sum(counts.values()) for group, counts in right.items()}
    total = sum(sizes.values())
    return sum(distances[group] * sizes[group] for group in sizes) / total / 100 if total else 0.0


def report(truths: Sequence[Truth], answers: Sequence[str]) -> str:
    """Returns what the published script prints about balanced questions, where it has no lists of choices.

    Args:
        answers: to the questions of ``truths``, as `said` gives them.
    """
    pairs = [(truth, answer) for truth, answer in zip(truths, answers, strict=True) if truth.balanced]
    right = [answer == truth.answer for truth, answer in pairs]

    def percent(keep: Callable[[Truth], bool]) -> str:
        mine = [good for (truth, _), good in zip(pairs, right, strict=True) if keep(truth)]
        return f"{100 * sum(mine) / len(mine) if mine else 0:.2f}%"

    distance = distribution([truth for truth, _ in pairs], [answer for _, answer in pairs])
    lines = [
        f"Binary: {percent(lambda truth: truth.structural != QUERY)}",
        f"Open: {percent(lambda truth: truth.structural == QUERY)}",
        f"Accuracy: {percent(lambda truth: True)}",
        "Validity: 0.00%",
        "Plausibility: 0.00%",
        f"Distribution: {distance:.2f} (lower is better)",
    ]
    parts = ("structural type", "structural"), ("semantic type", "semantic"), ("steps number", "steps")
    for title, name in (*parts, ("words number", "words")):
        counts = Counter(getattr(truth, name) for truth, _ in pairs)
        lines += ["", f"Accuracy / {title}:"]
        for value in sorted(counts):
            share = percent(lambda truth, name=name, value=value: getattr(truth, name) == value)  # type: ignore[misc]
            lines.append(f"  {value}: {share} ({counts[value]} questions)")
    return "\n".join(lines)
