"""The worth of rules as lines of text, and as JSON values."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vidtune.evaluation.explaining.worth import ALL, Worth, asked_in_both
from vidtune.spelling import counted

LONGEST_VALUE = 60


def worth_lines(found: Iterable[Worth], first: Path, second: Path, limit: int) -> Iterator[str]:
    """Yield the worth of each change as soon as it is known: points of its values, with intervals."""
    count = asked_in_both(first, second, limit)
    yield f"A {first}, B {second}: first {counted(count, 'question')}; A with one rule as B has it, minus A"
    total: dict[str, float] = {}
    for worth in found:
        change = worth.change
        yield change.name if change.name == ALL else f"{change.name}: {_short(change.first)} -> {_short(change.second)}"
        if worth.comparison is None:
            yield f"  cannot be changed alone: {worth.problem}"
            continue
        for one in worth.comparison.differences:
            if one.type is not None or one.official is None:
                continue
            value = one.official.value
            if change.name != ALL:
                total[one.name] = total.get(one.name, 0.0) + value
            bounds = one.official.low is not None and one.official.high is not None
            interval = f"  [{one.official.low:+.2f}, {one.official.high:+.2f}]" if bounds else "  no interval"
            single = f"  (one by one: {total.get(one.name, 0.0):+.2f})" if change.name == ALL else ""
            yield f"  {one.name}: {value:+.2f}{interval}{single}"


def worth_record(worth: Worth) -> Mapping[str, Any]:
    """Returns a worth as JSON values."""
    comparison = None if worth.comparison is None else worth.comparison.model_dump(mode="json")
    change = worth.change
    return {
        "rule": change.name,
        "first": change.first,
        "second": change.second,
        "problem": worth.problem or None,
        "comparison": comparison,
    }


def _short(value: Any) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
