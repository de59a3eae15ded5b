"""Replies of a judge: how they are read, and what of them counts.

A `ReplyForm` says what a prompt asks for. That of zero-shot video QA is read as the published scripts do it: a reply is
a Python literal, and kept as it is. A score then uses what it finds in it: the score is truncated to an integer, "yes"
and "no" are searched anywhere in ``pred``. The rules are those of the scripts of Maaz et al. (arXiv:2306.05424), which
later projects copied.

A lenient judge also understands what those scripts cannot read, where its meaning is certain (`judges.wild_text`).
What they read stays as they read it.
"""

import ast
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vidtune.evaluation.judges.wild_text import Understood, one_number, two_numbers, unwrapped, verdict_object
from vidtune.evaluation.ledger import COUNTED, Judging

LONGEST_REPLY = 20_000
LOWEST_SCORE, HIGHEST_SCORE = 0, 5
STRICT, LENIENT = "strict", "lenient"
"""How a judge's replies are read."""


class UnparsableReply(ValueError):
    """The reply is not of the form that was asked for: the judge has to be asked again."""


@dataclass(frozen=True)
class Verdict:
    """What counts of one judgement.

    Args:
        score: score of the answer; None: there is none that can be read.
        correct: True: the judge said yes; False: no; None: neither.
        reference: score of the reference answer, where a judge gives one to both.
    """

    score: float | None
    correct: bool | None = None
    reference: float | None = None


NO_VERDICT = Verdict(None)
_UNCLEAR = (Judging.UNREADABLE, Judging.NO_VERDICT)


@dataclass(frozen=True)
class ReplyForm:
    """What a judge is asked to reply.

    Args:
        parse: text -> JSON value that is kept; raises `UnparsableReply` where the judge has to be asked again.
        read: JSON value -> what counts of it.
        scores: JSON value -> all scores that it holds, which have to be on the scale; None for one that is lacking.
        lowest, highest: bounds of the scale.
        yes_or_no: the judge says yes or no besides its score.
        given_up: value that the published script counts when no reply can be read; None: it counts nothing.
        understand: text, without reasoning and code fences -> value and what was overlooked; None: it is not certain.
    """

    parse: Callable[[str], Any]
    read: Callable[[Any], Verdict]
    scores: Callable[[Any], Sequence[float | None]]
    lowest: float
    highest: float
    yes_or_no: bool = False
    given_up: Any = None
    understand: Callable[[str], Understood | None] = lambda text: None

    def reading(self, text: str, lenient: bool = False) -> Understood:
        """Returns the JSON value of a reply that is kept, and what was overlooked in it.

        Args:
            lenient: understand also what the published script cannot read.

        Raises:
            UnparsableReply: the judge has to be asked again.
        """
        try:
            value, failure = self.parse(text), None
        except UnparsableReply as error:
            value, failure = None, error
        if lenient and (failure is not None or self.state(value) in _UNCLEAR):
            bare = unwrapped(text)
            said = None if bare is None else self.understand(bare[0])
            if bare is not None and said is not None:
                return said[0], (*bare[1], *said[1])
        if failure is not None:
            raise failure
        return value, ()

    def state(self, value: Any) -> Judging:
        """Returns whether a judgement has a verdict that counts, and if not, why.

        Published scripts also add up scores outside the scale, and count what holds no score as the lowest.
        """
        scores = self.scores(value)
        if any(score is None or score != score for score in scores):
            return Judging.UNREADABLE
        if not all(self.lowest <= score <= self.highest for score in scores if score is not None):
            return Judging.OUT_OF_RANGE
        return Judging.NO_VERDICT if self.yes_or_no and self.read(value).correct is None else Judging.JUDGED

    def counts(self, value: Any) -> bool:
        """Whether a judgement counts in official values."""
        return self.state(value) in COUNTED


def parse_literal(text: str) -> Any:
    """Returns a reply that is a Python literal as a JSON value.

    Raises:
        UnparsableReply: it is none, or one that JSON cannot hold.
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


def read_literal(judgement: Any) -> Verdict:
    """Returns what one judgement contributes: the score, then yes or no; reading ends at the first mistake."""
    if not isinstance(judgement, dict) or "score" not in judgement:
        return NO_VERDICT
    try:
        score = int(judgement["score"])
    except (ValueError, TypeError, OverflowError):
        return NO_VERDICT
    said = judgement.get("pred")
    if not isinstance(said, str):
        return Verdict(score)
    said = said.lower()
    if "yes" in said:
        return Verdict(score, True)
    return Verdict(score, False if "no" in said else None)


def _score_of_literal(judgement: Any) -> tuple[float | None]:
    score = judgement["score"] if isinstance(judgement, dict) and "score" in judgement else None
    return (score if isinstance(score, int | float) else read_literal(judgement).score,)


def _form_of_literals(*names: str) -> ReplyForm:
    return ReplyForm(
        parse_literal,
        read_literal,
        _score_of_literal,
        LOWEST_SCORE,
        HIGHEST_SCORE,
        yes_or_no="pred" in names,
        understand=lambda text: verdict_object(text, names, HIGHEST_SCORE),
    )


YES_AND_SCORE = _form_of_literals("pred", "score")
"""``{'pred': 'yes', 'score': 4}``, with a score from 0 to 5."""
SCORE_ALONE = _form_of_literals("score")
"""``{'score': 4}``, with a score from 0 to 5."""
_NO_PAIR = [-1, -1]


def pair_of_scores(lowest: float, highest: float) -> ReplyForm:
    """The first line holds two numbers, of the reference answer and of the model's; an explanation may follow.

    What is no such line is kept as ``[-1, -1]``, and the judge is not asked again, as published scripts do it.
    """
    return ReplyForm(_parse_pair, _read_pair, _scores_of_pair, lowest, highest, understand=two_numbers)


def _parse_pair(text: str) -> Any:
    numbers = [_number(one) for one in text.split("\n")[0].replace(",", " ").split(" ")]
    return numbers if len(numbers) == 2 and None not in numbers else _NO_PAIR


def _read_pair(value: Any) -> Verdict:
    reference, score = value if _is_pair(value) else _NO_PAIR
    return Verdict(score, reference=reference)


def _scores_of_pair(value: Any) -> Sequence[float | None]:
    return value if _is_pair(value) and value != _NO_PAIR else (None,)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(one, int | float) for one in value)


def leading_number(lowest: float, highest: float) -> ReplyForm:
    """The text before the first blank is a number on the scale; otherwise the judge is asked again.

    When that does not help, the published script counts the lowest score.
    """

    def parse(text: str) -> Any:
        number = _number(text.split(" ")[0].strip())
        if number is None or not lowest <= number <= highest:
            raise UnparsableReply(f"it does not begin with a number from {lowest:g} to {highest:g}")
        return {"score": number}

    def understand(text: str) -> Understood | None:
        said = one_number(text)
        return said if said is not None and lowest <= said[0]["score"] <= highest else None

    return ReplyForm(
        parse,
        _read_number,
        lambda value: (_read_number(value).score,),
        lowest,
        highest,
        given_up=lowest,
        understand=understand,
    )


def _read_number(value: Any) -> Verdict:
    number = value.get("score") if isinstance(value, dict) else value
    return Verdict(float(number)) if isinstance(number, int | float) else NO_VERDICT


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
