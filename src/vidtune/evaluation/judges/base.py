"""Interface of judges: items to judge, judgements, and what judging takes."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidtune.errors import UserError

DEFAULT_JUDGE = "rules-v1"
LENIENT_ENDING = "-lenient"
"""Ends the name of a judge that reads replies leniently."""
HASH_LETTERS = 6
"""Hexadecimal digits of the hash of its settings, which a judge's name ends with where they are not the published."""
_ENDING = re.compile(rf"-([0-9a-f]{{{HASH_LETTERS}}}({LENIENT_ENDING})?|v\d+)")


def is_name_of(name: str, judge: str) -> bool:
    """Whether a judge's name is this one with the hash of its settings, or with its version, behind it."""
    return judge.startswith(name) and _ENDING.fullmatch(judge, len(name)) is not None


@dataclass(frozen=True, slots=True)
class JudgeItem:
    """One answer to judge; ``id`` is unique among the items.

    Args:
        unjudged: why an earlier judging left it without a verdict that counts; None: it did not.
        second: question and answer that are judged together with these; None: there are none.
        prompt: name of the published prompt for a chat model; None: the judge's own.
        texts: further texts that the prompt shows, by the names of its fields.
        further_answers: reference answers that are right besides ``answer``.
    """

    id: str
    question: str
    answer: str
    pred: str
    unjudged: str | None = field(default=None, compare=False)
    second: tuple[str, str] | None = None
    prompt: str | None = None
    texts: Mapping[str, str] = field(default_factory=dict, hash=False)
    further_answers: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """All reference answers."""
        return (self.answer, *self.further_answers)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The judgement of one item.

    Args:
        value: reply of the judge as a JSON value, usually ``{"pred": "yes", "score": 5}``; unused with an ``error``.
        error: why the item is unjudged after all attempts; None: it is judged.
        attempts: number of requests sent for it; 0 when the reply was known, or the item cannot be sent.
        reply: the text of the last reply, readable or not, as it is kept; None where there is none.
        lenient: what a lenient judge overlooked in the reply; see `judges.wild_text`.
    """

    item: JudgeItem
    value: Any = None
    error: str | None = None
    attempts: int = 0
    reply: str | None = None
    lenient: tuple[str, ...] = ()


@dataclass
class Usage:
    """What judging took.

    Args:
        calls: number of requests sent, repetitions included.
        cached: number of items whose reply was known before.
        prompt_tokens, completion_tokens: numbers of tokens as the endpoint counted them, without failed requests.
        uncounted: number of replies whose tokens the endpoint did not count; they are not in ``cost``.
        cost: cost in the currency of the prices; None without prices.
        estimated_cost: about what the uncounted replies cost, by the lengths of their texts.
        currency: empty: not known.
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    cost: float | None = None
    estimated_cost: float = 0.0
    currency: str = ""

    @property
    def spent(self) -> float:
        """Cost of all replies, where it is not counted as it is estimated."""
        return (self.cost or 0.0) + self.estimated_cost


@dataclass(frozen=True)
class ExpectedUsage:
    """What judging will take if no request has to be repeated; see `Usage`.

    Args:
        cost: None without prices.
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    currency: str = ""


@dataclass(frozen=True)
class JudgingSummary:
    """What one judging pass did.

    Args:
        judge: name of the judge.
        items: number of answers, judged now or before.
        reused: number of judgements of this judge that were stored before.
        unjudged: number of answers without a verdict that counts after all attempts; the ledger says why.
    """

    judge: str
    items: int
    reused: int
    unjudged: int
    usage: Usage


class JudgingStoppedError(UserError):
    """Judging ended before all items were judged; judgements given to ``done`` before stay valid.

    ``usage`` is what judging took until then; None: not known.
    """

    usage: Usage | None = None


class Judge(ABC):
    """Gives a verdict and a score on free-form answers, in the form that an item's prompt asks for.

    Args:
        name: name of the judge in scores and in file names.
        identity: everything that can change a verdict, as JSON values, without secrets.

    Attributes:
        usage: what the latest judging has taken so far; None: nothing that is counted.
    """

    name: str
    identity: dict[str, Any]
    usage: Usage | None = None

    @abstractmethod
    def judge(self, items: Sequence[JudgeItem], done: Callable[[Judgement], None]) -> Usage:
        """Judge all items.

        Args:
            done: called once per item, in any order, as soon as its judgement is known; possibly from another thread.
        """

    def estimate(self, items: Sequence[JudgeItem]) -> ExpectedUsage:
        """Returns what `judge` would take; sends no request."""
        return ExpectedUsage()


def is_file_name(name: str) -> bool:
    """Whether a judge can have this name in the names of files."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}", name) is not None


def require_file_name(name: str) -> str:
    """Returns the name of a judge; raises UserError when a file cannot have this name."""
    if not is_file_name(name):
        raise UserError(f"judge name {name!r}: use letters, digits and . _ @ + - only, 100 at most")
    return name
