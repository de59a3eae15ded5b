"""Moments as text: rules by which systems write seconds of a clip into prompts, and read them from answers."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vidtune.data.problems import SampleProblem
from vidtune.data.sample import Times, Turn
from vidtune.registry import TIME_RULES


@dataclass(frozen=True, slots=True)
class TimeRule:
    """How a system writes moments.

    Args:
        write: second of a moment, duration of the clip -> text.
        read: text, duration -> second.
        span: pattern of a time span in an answer; groups 1 and 2 are its start and its end.
    """

    write: Callable[[float, float], str]
    read: Callable[[str, float], float]
    span: re.Pattern[str]


def _write_percent(second: float, duration: float) -> str:
    # Division first, as published: 7 of 200 seconds are then 3.5000000000000004 percent, not 3.5, a tie in rounding.
    return f"{min(round(second / duration * 100), 99):02d}"


# Hundredths of the clip in two digits, 00 to 99 (VTimeLLM, arXiv:2311.18445, section 3; `train/dataset.py`).
PERCENT = TimeRule(
    write=_write_percent,
    read=lambda text, duration: int(text) * duration / 100,
    span=re.compile(r"(?<!\d)(\d\d) (?:to|and) (\d\d)(?!\d)"),
)

PARTS = {"percent": f"{__name__}:PERCENT"}


def time_rule(name: str) -> TimeRule:
    """Return the rule of that name. Raises UserError for an unknown name."""
    return TIME_RULES[name]


def mark_times(turns: Sequence[Turn], times: Times | None, rule: str | None) -> tuple[Turn, ...]:
    """The turns, with every mark replaced by the text of its moment.

    Args:
        times: the moments of the marks; None leaves the turns unchanged.
        rule: name of the rule; None if the system writes no times.
    Raises:
        SampleProblem: the text contains a mark but there is no rule.
    """
    used = [mark for mark, _ in times.marks if any(mark in turn.text for turn in turns)] if times else []
    if times is None or not used:
        return tuple(turns)
    if rule is None:
        raise SampleProblem(
            "times without a rule", f"{used[0]} stands for a moment, but the system has no rule for writing moments"
        )
    write = time_rule(rule).write
    written = [(mark, write(second, times.duration)) for mark, second in times.marks]
    return tuple(replace(turn, text=_replaced(turn.text, written)) for turn in turns)


def spans_in_text(text: str, duration: float, rule: str) -> list[tuple[float, float]]:
    """Time spans in an answer, in order: (start, end) in seconds.

    Args:
        text: such as ``From 10 to 25, a dog barks.``
        duration: duration of the clip in seconds.
        rule: name of the rule.
    """
    read, span = time_rule(rule).read, time_rule(rule).span
    return [(read(found[1], duration), read(found[2], duration)) for found in span.finditer(text)]


def with_seconds(text: str, duration: float, rule: str) -> str:
    """The answer with the seconds after every time span: ``From 10 to 25 (6.1 s to 15.3 s), ...``."""
    read, span = time_rule(rule).read, time_rule(rule).span

    def told(found: re.Match[str]) -> str:
        return f"{found[0]} ({read(found[1], duration):.1f} s to {read(found[2], duration):.1f} s)"

    return span.sub(told, text)


def _replaced(text: str, written: Sequence[tuple[str, str]]) -> str:
    for mark, moment in written:
        text = text.replace(mark, moment)
    return text
