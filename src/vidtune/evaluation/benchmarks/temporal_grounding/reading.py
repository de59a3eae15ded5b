"""Which interval of seconds an answer names, by two published rules.

Both lower the text, remove the example of an early prompt, turn every "to" into "-", cut the text at ``! ?`` and line
ends, and give the first pair of numbers that they find, ordered.

`first_pair` is the rule of VideoChat-Flash's evaluation (arXiv:2501.00574; its ``lmms-eval_videochat``), with its
quirks: a range is looked for in the whole text, with a hyphen alone; an "s" after a number ("24.3s - 30.4s") hides it;
a clock time gives its hours. `first_pair_of_sentences` is that of lmms-eval 0.7: sentences that tell of a start or end
come first, clock times are read, and a dash is as good as a hyphen.
"""

import re
from collections.abc import Iterable

from vidtune.evaluation.metrics.grounding import Interval

_EXAMPLE = "a specific example is : 20.8 - 30.0 seconds"
_TELLING = ("start", "end", "happen")
_LOOSE_RANGE = re.compile(r"(\d+\.*\d*)\s*-\s*(\d+\.*\d*)")
_LONE_NUMBER = re.compile(r"\b\d+\.\d+\b|\b\d+\b")
_RANGE = re.compile(r"(\d+(?:\.\d+)?)\s*[–-]\s*(\d+(?:\.\d+)?)")
_RANGE_IN_SECONDS = re.compile(r"(\d+(?:\.\d+)?)\s*s?\s*[–-]\s*(\d+(?:\.\d+)?)\s*s?")
_WHOLE_NUMBER = re.compile(r"\b\d+(?:\.\d+)?\b")
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2})?"
_CLOCK_TIME = re.compile(rf"\b{_CLOCK}\b")
_CLOCK_RANGE = re.compile(rf"\b({_CLOCK})\s*[–-]\s*({_CLOCK})\b")


def first_pair(answer: str) -> Interval | None:
    """Returns start and end in seconds by the rule of VideoChat-Flash's evaluation; None: the answer names no pair."""
    text = _prepared(answer)
    ranges = _LOOSE_RANGE.findall(text)
    try:
        # All of them have to be numbers: the published script ends at "1..2", wherever it stands.
        pairs = [(float(start), float(end)) for start, end in ranges]
    except ValueError:
        return None
    return _ordered(pairs or _paired(_firsts(_LONE_NUMBER, filter(_tells, _sentences(text)))))


def first_pair_of_sentences(answer: str) -> Interval | None:
    """Returns start and end in seconds by the rule of lmms-eval 0.7; None: the answer names no pair."""
    sentences = _sentences(_prepared(answer))
    telling = [one for one in sentences if _tells(one)] or sentences
    return (
        _ordered((_seconds(start), _seconds(end)) for one in telling for start, end in _CLOCK_RANGE.findall(one))
        or _ordered((float(start), float(end)) for one in telling for start, end in _RANGE.findall(one))
        or _ordered(_paired([_seconds(time) for one in telling for time in _CLOCK_TIME.findall(one)]))
        or _ordered(_paired(_firsts(_WHOLE_NUMBER, telling)))
        or _ordered((float(start), float(end)) for one in telling for start, end in _RANGE_IN_SECONDS.findall(one))
    )


def _prepared(answer: str) -> str:
    return answer.lower().replace(_EXAMPLE, "").replace("to", "-")


def _sentences(text: str) -> list[str]:
    return re.split(r"[!?\n]", text)


def _tells(sentence: str) -> bool:
    return any(word in sentence for word in _TELLING)


def _firsts(pattern: re.Pattern[str], sentences: Iterable[str]) -> list[float]:
    """The first number of each sentence that has one."""
    found = (pattern.search(sentence) for sentence in sentences)
    return [float(one[0]) for one in found if one is not None]


def _paired(numbers: list[float]) -> list[Interval]:
    return list(zip(numbers[::2], numbers[1::2], strict=False))


def _ordered(pairs: Iterable[Interval]) -> Interval | None:
    """The first pair, smaller number first."""
    first = next(iter(pairs), None)
    return None if first is None else (min(first), max(first))


def _seconds(clock: str) -> float:
    """Seconds of ``hours:minutes:seconds`` or ``minutes:seconds``."""
    total = 0.0
    for part in clock.split(":"):
        total = 60 * total + float(part)
    return total
