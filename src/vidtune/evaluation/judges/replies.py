"""Replies of a judge: how they are read, as the published scripts of zero-shot video QA do it.

A reply is read as a Python literal, and kept as it is. A score then uses what it finds in it: the score is truncated to
an integer, "yes" and "no" are searched anywhere in ``pred``. The rules are those of the scripts of Maaz et al.
(arXiv:2306.05424), which later projects copied.
"""

import ast
import json
from dataclasses import dataclass
from typing import Any

from vidtune.evaluation.ledger import COUNTED, Judging

LONGEST_REPLY = 20_000
LOWEST_SCORE, HIGHEST_SCORE = 0, 5


class UnparsableReply(ValueError):
    """The reply is no Python literal, or one that JSON cannot hold."""


@dataclass(frozen=True)
class Verdict:
    """What counts of one judgement.

    Args:
        score: truncated score; None: there is none that ``int`` accepts.
        correct: True: "yes" was found; False: "no" was found; None: neither.
    """

    score: int | None
    correct: bool | None


def parse_reply(text: str) -> Any:
    """Returns the reply as a JSON value.

    Raises:
        UnparsableReply: it cannot be read; the judge has to be asked again.
    """
    if not text.strip():
        raise UnparsableReply("it is empty")
    if len(text) > LONGEST_REPLY:
        raise UnparsableReply(f"it is longer than {LONGEST_REPLY} characters")
    try:
        value = ast.literal_eval(text)
        return json.loads(json.dumps(value))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UnparsableReply(f"no Python literal ({type(error).__name__})") from None


def read_verdict(judgement: Any) -> Verdict:
    """Returns what one judgement contributes: the score, then yes or no; reading ends at the first mistake."""
    if not isinstance(judgement, dict) or "score" not in judgement:
        return Verdict(None, None)
    try:
        score = int(judgement["score"])
    except (ValueError, TypeError, OverflowError):
        return Verdict(None, None)
    said = judgement.get("pred")
    if not isinstance(said, str):
        return Verdict(score, None)
    said = said.lower()
    if "yes" in said:
        return Verdict(score, True)
    return Verdict(score, False if "no" in said else None)


def judging_state(judgement: Any, yes_or_no: bool = True) -> Judging:
    """Returns whether a judgement has a verdict that counts, and if not, why.

    Args:
        yes_or_no: the judge was asked for yes or no, not for points alone.

    The published script also adds up scores outside the scale, and counts what holds no score as a score of 0.
    """
    verdict = read_verdict(judgement)
    score = judgement["score"] if isinstance(judgement, dict) and "score" in judgement else None
    number = score if isinstance(score, int | float) else verdict.score
    if number is None or number != number:
        return Judging.UNREADABLE
    if not LOWEST_SCORE <= number <= HIGHEST_SCORE:
        return Judging.OUT_OF_RANGE
    return Judging.NO_VERDICT if yes_or_no and verdict.correct is None else Judging.JUDGED


def has_verdict(judgement: Any) -> bool:
    """Whether a judgement counts in official values."""
    return judging_state(judgement) in COUNTED
