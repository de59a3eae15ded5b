"""Removing punctuation as the published scorers of VQA do it; those of multiple choice have taken it over."""

import re

MARKS = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32
"""Number of periods that are removed; the published code gives a flag in the place of this number."""


def without_marks(text: str, comma_in_number: re.Pattern[str]) -> str:
    """Returns the text without punctuation: a mark beside a blank vanishes, any other becomes a blank.

    Args:
        comma_in_number: where it is found in the text, every mark vanishes.
    """
    result = text
    has_number = comma_in_number.search(text) is not None
    for mark in MARKS:
        vanishes = f"{mark} " in text or f" {mark}" in text or has_number
        result = result.replace(mark, "" if vanishes else " ")
    return _PERIOD.sub("", result, count=_MOST_PERIODS)
