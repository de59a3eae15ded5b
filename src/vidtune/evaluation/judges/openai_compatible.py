"""A chat model as judge, behind any endpoint with the OpenAI chat API.

Every readable reply is kept in an append-only cache, so that no question is paid for twice. Requests that fail for a
reason that may pass (429, 5xx, lost connection, time-out, unreadable reply) are repeated a limited number of times,
with growing random pauses, and never before the time that the server asks for. What is left then is reported as
unjudged.

The client's own retries are switched off, because they do less: they are counted in no limit of requests or cost, they
do not repeat an unreadable reply, they end no response that keeps coming byte by byte, and a wait that the server asks
for holds back one request instead of all of them.
"""

import asyncio
import hashlib
import os
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vidtune.errors import UserError
from vidtune.evaluation.judges.base import ExpectedUsage, Judge, JudgeItem, Judgement, Usage, require_file_name
from vidtune.evaluation.judges.failures import Failure, explain
from vidtune.evaluation.judges.prompts import VIDEO_QA, JudgePrompt
from vidtune.evaluation.judges.replies import UnparsableReply, parse_reply
from vidtune.evaluation.protocol import canonical_json
from vidtune.machine.records import RecordWriter, read_records

if TYPE_CHECKING:
    from openai import AsyncOpenAI

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
CHARACTERS_PER_TOKEN = 4
REPLY_TOKENS = 20
REFUSALS_BEFORE_GIVING_UP = 5


@dataclass(frozen=True)
class Limits:
    """Limits of what a judge sends to the endpoint.

    Args:
        concurrency: maximum number of requests under way at a time.
        timeout: seconds that a whole request may take.
        attempts: maximum number of requests per item.
        backoff: seconds before the first repetition; doubles with each further one.
        longest_wait: maximum seconds between two requests for an item, whatever the server asks for.
        max_calls: maximum number of requests per run, repetitions included.
        max_cost: maximum cost per run; requests under way when it is reached are still paid.
    """

    concurrency: int = 8
    timeout: float = 60.0
    attempts: int = 6
    backoff: float = 1.0
    longest_wait: float = 120.0
    max_calls: int | None = None
    max_cost: float | None = None


@dataclass(frozen=True)
class Prices:
    """Price of a million tokens, in any currency."""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class OpenAICompatibleJudge(Judge):
    """Asks a chat model for yes or no and a score.

    Items with the same question, reference and prediction are asked once.

    Args:
        model: name of the model at the endpoint.
        base_url: address of the API; None: OpenAI's.
        api_key_env: environment variable that holds the key. None: ``OPENAI_API_KEY`` for OpenAI itself, no key for any
            other address. The key itself is never stored.
        parameters: sampling parameters to send; None: as published, the endpoint chooses them.
        cache: file of known replies, shared between runs; None: replies are not kept.
        prices: needed to compute a cost, and for ``limits.max_cost``.
        name: name of this judge in scores; None: the model's name, with a hash when anything but the model differs from
            the published setting.
    """

    def __init__(
        self,
        model: str = "gpt-3.5-turbo",
        *,
        base_url: str | None = None,
        api_key_env: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        prompt: JudgePrompt = VIDEO_QA,
        cache: Path | None = None,
        limits: Limits = Limits(),
        prices: Prices | None = None,
        name: str | None = None,
    ) -> None:
        self.model = model
        self.base_url = (base_url or OPENAI_URL).rstrip("/")
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise UserError(f"judge address {base_url!r}: expected http:// or https:// with a host")
        if limits.max_cost is not None and prices is None:
            raise UserError("a cost limit needs the prices per million tokens; give both")
        self.api_key_env = api_key_env or (OPENAI_KEY if self.base_url == OPENAI_URL else None)
        self.parameters = dict(parameters or {})
        self.prompt = prompt
        self.cache = cache
        self.limits = limits
        self.prices = prices
        port = f":{address.port}" if address.port else ""
        self.identity = {
            "kind": "openai-compatible",
            "model": model,
            "base_url": f"{address.scheme}://{address.hostname}{port}{address.path}",
            "prompt": prompt.name,
            "parameters": self.parameters,
        }
        self.name = require_file_name(name or self._default_name())

    def _default_name(self) -> str:
        readable = "".join(
            letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in self.model
        )
        published = {"base_url": OPENAI_URL, "prompt": VIDEO_QA.name, "parameters": {}}
        if all(self.identity[key] == value for key, value in published.items()) and readable == self.model:
            return readable
        return f"{readable.strip('-._')}-{hashlib.sha256(canonical_json(self.identity).encode()).hexdigest()[:6]}"

    def estimate(self, items: Sequence[JudgeItem]) -> ExpectedUsage:
        """Returns requests and tokens if no request is repeated; four characters count as a token."""
        known = self._known_replies()
        chats = {self._key(item): self.prompt.messages(item) for item in items}
        unknown = [chat for key, chat in chats.items() if key not in known]
        characters = sum(len(message["content"]) for chat in unknown for message in chat)
        prompt_tokens, completion_tokens = characters // CHARACTERS_PER_TOKEN, REPLY_TOKENS * len(unknown)
        return ExpectedUsage(
            calls=len(unknown),
            cached=len(items) - len(unknown),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost=self.prices.cost(prompt_tokens, completion_tokens) if self.prices else None,
        )

    def judge(self, items: Sequence[JudgeItem], done: Callable[[Judgement], None]) -> Usage:
        """Judge all items.

        Raises:
            UserError: the limits do not allow it, the key is missing or refused, the model is unknown, or a limit is
                reached on the way. Judgements given to ``done`` before that stay valid.
        """
        self._require_within_limits(self.estimate(items))
        key = os.environ.get(self.api_key_env or "", "")
        if self.api_key_env and not key:
            raise UserError(f"the judge {self.name} needs an API key: set the environment variable {self.api_key_env}")
        with ExitStack() as stack:
            cache = stack.enter_context(RecordWriter(self.cache, shared=True)) if self.cache else None
            return run_to_end(_Round(self, key, cache, done).run, items)

    def _require_within_limits(self, estimate: ExpectedUsage) -> None:
        limits = self.limits
        if limits.max_calls is not None and estimate.calls > limits.max_calls:
            raise UserError(
                f"judging takes {estimate.calls} requests, the limit is {limits.max_calls}; raise the limit to go on"
            )
        if limits.max_cost is not None and estimate.cost is not None and estimate.cost > limits.max_cost:
            raise UserError(
                f"judging costs about {estimate.cost:.2f}, the limit is {limits.max_cost:.2f}; raise it to go on"
            )

    def _key(self, item: JudgeItem) -> str:
        """Hash of everything the reply depends on."""
        request = [self.identity["base_url"], self.model, self.prompt.messages(item), self.parameters]
        return hashlib.sha256(canonical_json(request).encode()).hexdigest()

    def _known_replies(self) -> dict[str, Any]:
        """The replies in the cache, as judgements by key."""
        known = {}
        for record in read_records(self.cache, skip_broken=True) if self.cache else ():
            with suppress(UnparsableReply, KeyError, TypeError):
                known[record["key"]] = parse_reply(record["reply"])
        return known


def run_to_end(ask: Callable[[Sequence[JudgeItem]], Coroutine[Any, Any, Usage]], items: Sequence[JudgeItem]) -> Usage:
    """Run a coroutine and wait for its result.

    Where an event loop runs already in this thread, as in a notebook, the coroutine runs in another thread, on its own
    loop; an interrupt ends it there too.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(ask(items))
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal:
        return portal.call(ask, items)


class _Round:
    """One call of `OpenAICompatibleJudge.judge`."""

    def __init__(
        self, judge: OpenAICompatibleJudge, key: str, cache: RecordWriter | None, done: Callable[[Judgement], None]
    ) -> None:
        self.judge = judge
        self.limits = judge.limits
        self.key = key
        self.cache = cache
        self.done = done
        self.usage = Usage(cost=0.0 if judge.prices else None)
        self.not_before = 0.0
        self.refusals = 0

    async def run(self, items: Sequence[JudgeItem]) -> Usage:
        from openai import AsyncOpenAI

        known = self.judge._known_replies()
        waiting: dict[str, list[JudgeItem]] = {}
        for item in items:
            waiting.setdefault(self.judge._key(item), []).append(item)
        unknown = iter([key for key in waiting if key not in known])
        for key in waiting.keys() & known.keys():
            self._report(waiting[key], Judgement(waiting[key][0], known[key]))

        client = AsyncOpenAI(
            api_key=self.key or "none", base_url=self.judge.base_url, timeout=self.limits.timeout, max_retries=0
        )

        client.chat.completions  # noqa: B018 - loads modules, which must not take the time of the first request

        async def work() -> None:
            for key in unknown:
                self._report(waiting[key], await self._ask(client, key, waiting[key][0]))

        async with client:
            workers = [asyncio.create_task(work()) for _ in range(max(1, self.limits.concurrency))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return self.usage

    def _report(self, items: Sequence[JudgeItem], judgement: Judgement) -> None:
        first, *same = items
        self.usage.cached += len(items) - bool(judgement.attempts)
        self.done(Judgement(first, judgement.value, judgement.error, judgement.attempts))
        for item in same:
            self.done(Judgement(item, judgement.value, judgement.error))

    async def _ask(self, client: "AsyncOpenAI", key: str, item: JudgeItem) -> Judgement:
        messages = self.judge.prompt.messages(item)
        failure = Failure("not asked")
        for attempt in range(self.limits.attempts):
            await self._pause(attempt, failure)
            self._require_budget()
            self.usage.calls += 1
            try:
                text = await asyncio.wait_for(self._request(client, messages), self.limits.timeout)
                value = parse_reply(text)
            except Exception as error:
                failure = explain(error, self.limits.timeout, self.key)
                if failure.fatal:
                    raise UserError(
                        f"judge {self.judge.name} at {self.judge.identity['base_url']}: {failure.reason}"
                    ) from None
                if not failure.repeat:
                    self._count_refusal(failure)
                    return Judgement(item, error=failure.reason, attempts=attempt + 1)
            else:
                self.refusals = -1
                if self.cache is not None:
                    self.cache.append({"key": key, "model": self.judge.model, "reply": text})
                return Judgement(item, value, attempts=attempt + 1)
        return Judgement(
            item, error=f"{failure.reason} ({self.limits.attempts} attempts)", attempts=self.limits.attempts
        )

    async def _request(self, client: "AsyncOpenAI", messages: list[dict[str, str]]) -> str:
        chat: Any = messages
        response: Any = await client.chat.completions.create(
            model=self.judge.model, messages=chat, **self.judge.parameters
        )
        tokens = getattr(response, "usage", None)
        if tokens is not None:
            self.usage.prompt_tokens += tokens.prompt_tokens or 0
            self.usage.completion_tokens += tokens.completion_tokens or 0
            if self.judge.prices:
                self.usage.cost = self.judge.prices.cost(self.usage.prompt_tokens, self.usage.completion_tokens)
        try:
            return response.choices[0].message.content or ""
        except (AttributeError, IndexError, TypeError):
            raise UnparsableReply("the response is no chat completion") from None

    async def _pause(self, attempt: int, failure: Failure) -> None:
        """Wait before a request: the pause of this item, and the time that the server has told any worker to wait."""
        if attempt:
            backoff = min(self.limits.backoff * 2 ** (attempt - 1), self.limits.longest_wait) * random.uniform(0.5, 1.0)
            asked = min(failure.retry_after, self.limits.longest_wait)
            self.not_before = max(self.not_before, time.monotonic() + asked if asked else 0.0)
            await asyncio.sleep(backoff)
        while (remaining := self.not_before - time.monotonic()) > 0:
            await asyncio.sleep(remaining)

    def _require_budget(self) -> None:
        limits, usage = self.limits, self.usage
        reached = None
        if limits.max_calls is not None and usage.calls >= limits.max_calls:
            reached = f"{limits.max_calls} requests"
        elif limits.max_cost is not None and usage.cost is not None and usage.cost >= limits.max_cost:
            reached = f"cost {limits.max_cost:.2f}"
        if reached:
            raise UserError(
                f"judging stopped at its limit ({reached}); judgements so far are kept, raise the limit to go on"
            )

    def _count_refusal(self, failure: Failure) -> None:
        """Stop early where the first requests are all refused: a wrong setting would refuse every item."""
        if self.refusals < 0:
            return
        self.refusals += 1
        if self.refusals >= REFUSALS_BEFORE_GIVING_UP:
            raise UserError(
                f"judge {self.judge.name}: the first {self.refusals} requests were refused: {failure.reason}"
            )
