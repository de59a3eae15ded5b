"""What a chat model as judge may take: requests, time and cost."""

import math
from dataclasses import dataclass

from vidtune.errors import UserError


def _require(name: str, value: float, lowest: int) -> None:
    if not (math.isfinite(value) and value >= lowest):
        raise UserError(f"judge: {name} is {value}; expected a number of at least {lowest}")


@dataclass(frozen=True)
class Limits:
    """Limits of what a judge sends to the endpoint.

    Args:
        concurrency: maximum number of requests under way at a time.
        timeout: seconds that a whole request may take.
        attempts: maximum number of requests per item.
        failures: number of failures of one kind in a row, with no usable verdict between them, that end the judging;
            None: none do. See `judges.streaks`.
        backoff: seconds before the first repetition; doubles with each further one.
        longest_wait: maximum seconds between two requests for an item, whatever the server asks for.
        max_calls: maximum number of requests per run, repetitions included.
        max_cost: maximum cost of all that one judge or model is asked. No request is sent that would pass it if it cost
            as much as the dearest one so far; those under way are waited for.

    Raises:
        UserError: a limit that is no limit, such as NaN.
    """

    concurrency: int = 8
    timeout: float = 60.0
    attempts: int = 6
    failures: int | None = 5
    backoff: float = 2.0
    longest_wait: float = 120.0
    max_calls: int | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        for name, lowest in (("concurrency", 1), ("attempts", 1), ("timeout", 0), ("backoff", 0), ("longest_wait", 0)):
            _require(name, getattr(self, name), lowest)
        for name, lowest in (("failures", 1), ("max_calls", 0), ("max_cost", 0)):
            if getattr(self, name) is not None:
                _require(name, getattr(self, name), lowest)


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Prices:
    """Price of a million tokens.

    Args:
        currency: empty: not known.
        source: where the prices stand, in words.

    Raises:
        UserError: what is no price, such as NaN.
    """

    prompt: float
    completion: float
    currency: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        _require("price of prompt tokens", self.prompt, 0)
        _require("price of completion tokens", self.completion, 0)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6
