"""What a chat model as judge may take: requests, time and cost."""

from dataclasses import dataclass


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
        max_cost: maximum cost per run; requests under way when it is reached are still paid.
    """

    concurrency: int = 8
    timeout: float = 60.0
    attempts: int = 6
    failures: int | None = 5
    backoff: float = 2.0
    longest_wait: float = 120.0
    max_calls: int | None = None
    max_cost: float | None = None


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Prices:
    """Price of a million tokens, in any currency."""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6
