"""What every judge offers."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidtune.errors import UserError

DEFAULT_JUDGE = "rules-v1"


@dataclass(frozen=True, slots=True)
class JudgeItem:
    """One answer to judge; ``id`` is unique among the items."""

    id: str
    question: str
    answer: str
    pred: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """The judge's word on one item.

    Args:
        value: the reply as read, usually ``{"pred": "yes", "score": 5}``; meaningless when ``error`` is set.
        error: why there is no judgement after all attempts: the item is unjudged.
        attempts: requests sent for it, 0 when the reply was known.
    """

    item: JudgeItem
    value: Any = None
    error: str | None = None
    attempts: int = 0


@dataclass
class Usage:
    """What judging took.

    Args:
        calls: requests sent, repeated ones included.
        cached: items whose reply was known before.
        prompt_tokens, completion_tokens: as the endpoint counted them; requests that failed count nothing.
        cost: in the currency of the prices given; None without prices.
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None


@dataclass(frozen=True)
class ExpectedUsage:
    """What judging will take if no request has to be repeated.

    Args:
        cost: None without prices.
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None


@dataclass(frozen=True)
class JudgingSummary:
    """What one judging pass did.

    Args:
        judge: the judge's name.
        items: answers that have a judgement or were asked for one.
        reused: judgements of this judge that were stored before.
        unjudged: answers without a judgement after all attempts.
        reasons: why, and how often.
    """

    judge: str
    items: int
    reused: int
    unjudged: int
    reasons: Mapping[str, int]
    usage: Usage


class Judge(ABC):
    """Gives a verdict and a score from 0 to 5 on free-form answers.

    Args:
        name: names the judge in every score and in file names.
        identity: everything that can change a verdict, as JSON values without secrets.
    """

    name: str
    identity: dict[str, Any]

    @abstractmethod
    def judge(self, items: Sequence[JudgeItem], done: Callable[[Judgement], None]) -> Usage:
        """Judge all items; ``done`` is called once per item, in any order, as soon as its judgement is known."""

    def estimate(self, items: Sequence[JudgeItem]) -> ExpectedUsage:
        """What `judge` would take; asks nobody."""
        return ExpectedUsage()


def require_file_name(name: str) -> str:
    """The name of a judge, if it can also name a file."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}", name):
        raise UserError(f"judge name {name!r}: use letters, digits and . _ @ + - only, 100 at most")
    return name
