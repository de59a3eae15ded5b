"""Multiple choice: which option an answer names, by the rules of the published scorers, and the share of right ones.

===============  =============================================================================================
`normalised`     MVBench: ``B. text``, else the first letter A to E that stands alone once punctuation is removed; an
                 article "a" is read as A
`first_capital`  Video-MME: the first capital A to D anywhere, once openings such as "The best answer is" are removed
`first_of_five`  LongVideoBench in lmms-eval 0.7: the first capital A to E anywhere, once more such openings are removed
`standing`       Perception Test: the first capital A to D that stands alone
`written_out`    MMMU (arXiv:2311.16502): ``(B)``, else ``B`` before a blank or a period, else the text of an option
`ranked`         lmms-eval 0.7: of all letters that may be meant, the one in the most telling place
`alone`          the whole answer is the letter
`named`          the whole answer is the letter or the text of an option; else as `ranked`, for all letters there are
===============  =============================================================================================

A rule maps (answer, texts of the options) to a letter, or to None where the answer names none. The letter may be that
of no option.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np

from vidtune.evaluation.metrics.base import Id, MetricValues, TaskValues, join
from vidtune.evaluation.metrics.punctuation import is_same_text, without_marks

Reader = Callable[[str, Sequence[str]], str | None]
ACCURACY = "accuracy"
FOUR, FIVE, EIGHT = ascii_uppercase[:4], ascii_uppercase[:5], ascii_uppercase[:8]

_OPTION = re.compile(r"([A-E])\.\s*.+", re.IGNORECASE)  # "." matches no newline, so of one line only
_BARE = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_OPENINGS = ("The best answer is", "The correct answer is", "The answer is", "The answer")
_OPENINGS_TOGETHER = ("The best option isThe correct option is", "Best answer:Best option:")
"""Openings that a missing comma in the published code has joined, so that they never occur."""
_FURTHER_OPENINGS = ("The best option is", "The correct option is", "Best answer:", "Best option:")
_FEW_WORDS = 5
_EDGES = (",", ".", "!", "?", ";", ":", "'")
_PHRASES = (
    *(f"{kind} is" for kind in ("answer", "correct answer", "best answer", "correct option", "best option")),
    *(f"the {kind} is" for kind in ("answer", "correct answer", "best answer", "correct option", "best option")),
    *(
        f"{kind} is"
        for kind in ("choice", "the choice", "correct choice", "the correct choice", "my answer", "my choice")
    ),
    *("i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
"""What stands before a letter that is meant. Of each the first place counts, so one that contains another differs."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is right in a multiple-choice question.

    Args:
        letter: letter of the right option; None: no option is right.
        options: texts of the options.
    """

    letter: str | None
    options: tuple[str, ...]


def normalised(answer: str, options: Sequence[str]) -> str | None:
    """See the table above. Letters after E are read only where the answer is the letter alone."""
    if found := _OPTION.fullmatch(answer.strip()):
        return found[1].upper()
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    text = without_marks(text, _COMMA_IN_NUMBER)
    for mark in ("'", '"', ")", "("):
        text = text.strip(mark)
    text = text.strip()
    if found := re.search(r"\b[A-E]\b", text, re.IGNORECASE):
        return found[0].upper()
    return text.upper() if len(text) == 1 and text.upper() in ascii_uppercase else None


def first_capital(answer: str, options: Sequence[str]) -> str | None:
    """See the table above: "Best option: C" is read as B."""
    return _first_capital(FOUR, answer, (*_OPENINGS, *_OPENINGS_TOGETHER))


def first_of_five(answer: str, options: Sequence[str]) -> str | None:
    """See the table above: "Best option: C" is read as C."""
    return _first_capital(FIVE, answer, (*_OPENINGS, *_FURTHER_OPENINGS))


def _first_capital(letters: str, answer: str, openings: Sequence[str]) -> str | None:
    text = answer.strip()
    for opening in openings:
        text = text.replace(opening, "")
    found = re.search(f"[{letters}]", text)
    return found[0] if found else None


def standing(answer: str, options: Sequence[str]) -> str | None:
    """See the table above."""
    found = re.search(rf"\b[{FOUR}]\b", answer)
    return found[0] if found else None


def alone(answer: str, options: Sequence[str]) -> str | None:
    """See the table above."""
    return answer if len(answer) == 1 and answer in ascii_uppercase else None


def written_out(answer: str, options: Sequence[str]) -> str | None:
    """See the table above. Of several options the one that is named last; of equal ones the first."""
    letters = ascii_uppercase[: len(options)]
    text = answer
    for mark in _EDGES:
        text = text.strip(mark)
    text = f" {text} "
    in_brackets = {letter: f"({letter})" for letter in letters}
    by_letter = {letter: f" {letter} " for letter in letters}
    by_text = {letter: option.lower() for letter, option in zip(letters, options, strict=True)}
    stages = (
        (text, in_brackets, in_brackets),
        (text, {letter: f"{letter} " for letter in letters}, by_letter),
        (text, {letter: f"{letter}." for letter in letters}, by_letter),
        (text.lower() if len(text.split()) > _FEW_WORDS else "", by_text, by_text),
    )
    for where, marks, places in stages:
        found = [letter for letter, mark in marks.items() if where and mark in where]
        if found:
            return max(found, key=lambda letter: where.rfind(places[letter]))
    return None


def ranked(answer: str, options: Sequence[str]) -> str | None:
    """See the table above, for the letters A to D; of equally telling places the last counts."""
    return ranked_among(FOUR, answer)


def ranked_among(letters: str, answer: str) -> str | None:
    """`ranked` for other letters. Of letters in the same place the first of ``letters`` counts."""
    text = answer.strip()
    for mark in (*_EDGES, '"'):
        text = text.strip(mark)
    text = f" {text} "
    if not text.strip():
        return None
    best: tuple[int, int] = (-1, -1)
    meant: str | None = None
    for letter in letters:
        for rank, place in _places(letter, text):
            if (rank, place) > best:
                best, meant = (rank, place), letter
    return meant


def named(answer: str, options: Sequence[str]) -> str | None:
    """See the table above."""
    letters = ascii_uppercase[: len(options)]
    if (bare := _BARE.fullmatch(answer.strip())) and bare[1].upper() in letters:
        return bare[1].upper()
    same = [letter for letter, text in zip(letters, options, strict=True) if is_same_text(answer, text)]
    return same[0] if len(same) == 1 else ranked_among(letters, answer)


def _places(letter: str, text: str) -> Iterator[tuple[int, int]]:
    """Yields (how telling, place) of the last occurrence of a letter in every form in which it may be the answer."""
    forms = ((6, f"({letter})"), (5, f"{letter}."), (4, f"{letter}:"), (3, f"{letter})"), (2, f"{letter} "))
    bare, lower = text.strip(), text.lower()
    if bare.startswith(letter) and not bare[1:2].isalpha():
        yield 10, 0
    if bare.endswith(letter) and not bare[-2:-1].isalpha():
        yield 9, len(text) - 1
    for phrase in _PHRASES:
        if (begin := lower.find(phrase)) >= 0 and (place := text.find(letter, begin + len(phrase))) >= 0:
            yield 7, place
    for rank, form in forms:
        if form in text:
            yield rank, text.rfind(form)
    if letter in text:
        yield 0, text.rfind(letter)


_RULES = (normalised, first_capital, first_of_five, standing, written_out, ranked, alone, named)
READERS: dict[str, Reader] = {reader.__name__: reader for reader in _RULES}


def guess(seed: int, id: str, options: Sequence[str]) -> str:
    """A letter of the options, drawn at random; the same for the same seed and id."""
    drawn = hashlib.sha256(f"{seed}:{id}".encode()).digest()
    return ascii_uppercase[int.from_bytes(drawn[:8], "big") % len(options)]


def score_choices(
    answers: Mapping[Id, str],
    truths: Mapping[Id, Choice],
    read: Reader,
    *,
    strict: bool = False,
    guessed: Callable[[Id], str] | None = None,
) -> TaskValues[Id]:
    """Returns the share of right answers.

    Args:
        read: finds the letter in an answer.
        strict: an item without an answer counts as wrong.
        guessed: letter to take for an answer that names none; None: it is wrong.
    """
    joined = join(answers, truths, strict)
    letters = {one: read(answers[one], truths[one].options) for one in joined.ids if one in answers}
    unread = tuple(one for one, letter in letters.items() if letter is None)
    if guessed is not None:
        letters |= {one: guessed(one) for one in unread}
    right = [truths[one].letter is not None and letters.get(one) == truths[one].letter for one in joined.ids]
    return TaskValues(
        joined.ids, joined.missing, joined.unknown, unread, {ACCURACY: MetricValues.mean(np.array(right, float))}
    )
