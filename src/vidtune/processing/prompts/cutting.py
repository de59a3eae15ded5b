"""Cutting of prompts that are too long: whole parts are removed from the end, so that an answer still ends properly."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a prompt that is too long may be cut.

    Args:
        pattern: pattern of the places inside a text.
        rejoined: False: the prompt ends after an answer, or before a match of the pattern in an answer; the text before
            that place is not changed. True, as in published code (`preprocess_v1` of github.com/huangb23/VTimeLLM): a
            prompt of one question and its answer is divided before every match, wherever it stands, a prompt of several
            questions before every end of an answer; the kept parts are joined by a space.
    """

    pattern: str
    rejoined: bool = False

    def shortened(
        self, text: str, supervised: np.ndarray, end: str, turns: int, fits: Callable[[str], bool]
    ) -> tuple[str, np.ndarray]:
        """Remove as few of the last parts of a prompt as needed until it fits; the first part is always kept.

        Args:
            text: text of the whole prompt.
            supervised: (characters,) bool.
            end: text that ends an answer; the shorter prompt ends with it.
            turns: number of turns of the conversation, including an assistant turn at the start; two turns are one
                question.
            fits: whether a text is short enough; if a text does not fit, no longer text fits.
        Returns:
            The shorter text, and which of its characters are supervised; both unchanged if there is only one part.
        """
        if self.rejoined:
            return _rejoined(text, supervised, end, self.pattern if turns == 2 else re.escape(end), fits)
        return _ended(text, supervised, end, self.pattern, fits)


def _rejoined(
    text: str, supervised: np.ndarray, end: str, pattern: str, fits: Callable[[str], bool]
) -> tuple[str, np.ndarray]:
    """The first parts of a prompt, joined by a space and followed by ``end``; a space before ``end`` is supervised."""
    begins = sorted({0, len(text), *(match.start() for match in re.finditer(pattern, text))})
    spans = [_stripped(text, *span) for span in pairwise(begins)]
    if len(spans) < 2:
        return text, supervised

    def without_last(number: int) -> str:
        return " ".join(text[begin:stop] for begin, stop in spans[:-number]) + end

    dropped = bisect_right(range(1, len(spans) - 1), False, key=lambda number: fits(without_last(number))) + 1
    kept = spans[:-dropped]
    # A space is supervised if the next character is; the closing text if the character before it is.
    flags = [flag for begin, stop in kept for flag in (supervised[begin : begin + 1], supervised[begin:stop])]
    closing = np.full(len(end), supervised[kept[-1][1] - 1])
    return without_last(dropped), np.concatenate([*flags[1:], closing])


def _ended(
    text: str, supervised: np.ndarray, end: str, pattern: str, fits: Callable[[str], bool]
) -> tuple[str, np.ndarray]:
    """The longest prompt that fits, or the shortest possible one; white space before the cut is dropped."""
    borders = np.flatnonzero(np.diff(supervised.astype(np.int8), prepend=0, append=0))
    stops: list[int] = []  # ends of the text before the closing ``end``
    for begin, stop in borders.reshape(-1, 2).tolist():
        answer = text[begin : stop - len(end)]
        kept = [len(answer[: match.start()].rstrip()) for match in re.finditer(pattern, answer)]
        stops += [begin + length for length in (*kept, len(answer)) if length]
    if not stops:
        return text, supervised
    last = bisect_left(stops[1:], True, key=lambda stop: not fits(text[:stop] + end))
    return text[: stops[last]] + end, np.concatenate([supervised[: stops[last]], np.full(len(end), True)])


def _stripped(text: str, begin: int, end: int) -> tuple[int, int]:
    """The span of a part of the text without the white space around it."""
    part = text[begin:end]
    stop = begin + len(part.rstrip())
    return min(end - len(part.lstrip()), stop), stop
