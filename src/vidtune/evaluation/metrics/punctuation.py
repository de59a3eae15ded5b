"""Texts without punctuation: as the published scorers of VQA remove it, and those of multiple choice after them; and as
short answers are compared.

`is_same_text` compares without case, punctuation, articles and spacing: the normalisation of extractive question
answering (Rajpurkar et al., SQuAD, arXiv:1606.05250), on Unicode. A change of it needs another name in `measuring` of
the benchmarks that use it.
"""

import re
import unicodedata

MARKS = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
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


def is_same_text(one: str, other: str) -> bool:
    """Whether two texts are equal once both are normalised; a text of nothing but marks is compared as it is."""
    first, second = normalised_text(one), normalised_text(other)
    return first == second if first or second else one.strip() == other.strip()


def normalised_text(text: str) -> str:
    """Returns a text in lower case, without punctuation and articles, its words with one blank between them."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(
        " " if unicodedata.category(mark)[0] == "P" and not _in_number(folded, place) else mark
        for place, mark in enumerate(folded)
    )
    words = " ".join(kept.split())
    bare = " ".join(_ARTICLES.sub(" ", words).split())
    return bare or words


def _in_number(text: str, place: int) -> bool:
    """Whether the mark at this place belongs to a number: "1.5", "-3", "10:30"."""
    after = text[place + 1 : place + 2].isdecimal()
    before = text[place - 1 : place]
    return after and ((text[place] in ".,:" and before.isdecimal()) or (text[place] == "-" and not before.strip()))
