"""Asks an endpoint the questions of a benchmark: several requests at a time, repeated where that may help.

A question that has no readable answer is a failed one, and the others are asked all the same. Where no question can be
answered (the key is refused, the model is unknown, the endpoint does not come back), asking ends at once.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from vidtune.errors import UserError
from vidtune.evaluation.judges.bodies import Body, read_body
from vidtune.evaluation.judges.failures import Failure, explain, said_without
from vidtune.evaluation.judges.pace import Pace, no_usage
from vidtune.evaluation.judges.prompts import CHARACTERS_PER_TOKEN
from vidtune.evaluation.models.frames import FrameReader, FrameRule
from vidtune.evaluation.models.messages import Part, messages_of, parts_of
from vidtune.evaluation.protocol import GenerationRules, Protocol
from vidtune.generation.settings import Answer, EngineStats, Request

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal
    from openai import AsyncOpenAI

    from vidtune.evaluation.checkpoint import AnsweringOptions
    from vidtune.evaluation.models.endpoint import Endpoint


PICTURE_TOKENS = 765
"""Prompt tokens of a picture of 768 x 768 pixels as OpenAI counts them: an estimate, where an endpoint counts none."""


class AskingStoppedError(UserError):
    """Asking ended before all questions were asked; answers that came before are stored."""


@dataclass(frozen=True)
class _Asked:
    """A question for `FailureStreaks`: none was left without an answer before."""

    id: str
    unjudged: None = None


class EndpointEngine:
    """Answers by one protocol; a context manager.

    Attributes:
        usage: requests, tokens and cost so far.
        stats: what was read and answered.
        earlier: cost of earlier sessions of the run, which counts in the limit of cost.
    """

    def __init__(self, asked: "Endpoint", protocol: Protocol, options: "AnsweringOptions") -> None:
        self.asked, self.limits = asked, asked.limits
        self.rule = FrameRule.read_rules(protocol)
        self.generation = protocol.generation
        self.key = asked.key()
        self.usage = no_usage(asked.prices)
        self.stats = EngineStats()
        self.earlier = 0.0
        self._reader = FrameReader(self.rule, protocol.blind, options.workers, options.media_timeout, self.stats)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.__exit__(kind, error, trace)

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Yields one answer per request, as they come; see `models.base.Engine`.

        Raises:
            AskingStoppedError: no question can be answered, requests keep failing, or a limit is reached.
        """
        from anyio.from_thread import start_blocking_portal
        from openai import AsyncOpenAI

        client = AsyncOpenAI(
            api_key=self.key or "none", base_url=self.asked.base_url, timeout=self.limits.timeout, max_retries=0
        )
        client.chat.completions.with_raw_response  # noqa: B018 - loads modules, which must not take a request's time
        self.pace = Pace(self.limits, self.asked.prices, self.usage, self.earlier)
        self._slots = asyncio.Semaphore(self.limits.concurrency)
        self._end: str | None = None
        self._at_limit = False
        with start_blocking_portal() as portal:  # what ends the block early ends the requests that are under way
            yield from self._answers(requests, client, portal)
            portal.call(client.close)

    def _answers(
        self, requests: Iterable[Request], client: "AsyncOpenAI", portal: "BlockingPortal"
    ) -> Iterator[Answer]:
        """Send questions while there is room, and yield the answers that came; at most twice as many are under way as
        are sent at a time."""
        under_way: set[Future[Answer]] = set()
        try:
            for request, media, problem in self._questions(requests):
                if problem is not None:
                    yield problem
                    continue
                under_way.add(portal.start_task_soon(self._ask, client, request, media))
                if len(under_way) >= 2 * self.limits.concurrency:
                    done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    yield from _results(done)
            while under_way:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from _results(done)
        except AskingStoppedError:
            if self._at_limit:  # what was sent is paid
                yield from (future.result() for future in wait(under_way).done if future.exception() is None)
            raise

    def _questions(self, requests: Iterable[Request]) -> Iterator[tuple[Request, list[list[Part]], Answer | None]]:
        """The requests, with their media as parts of messages, or an answer that says why they cannot be asked."""
        for group in self._reader.groups(requests):
            media = [] if group.error is not None else [parts_of(shown, self.rule) for shown in group.shown]
            for request in group.requests:
                failed = None if group.error is None else Answer.failed(request.id, group.error, group.open)
                yield request, media, failed

    async def _ask(self, client: "AsyncOpenAI", request: Request, media: list[list[Part]]) -> Answer:
        """Ask until there is an answer that can be read, or give the question up."""
        try:
            chat = messages_of(request, media)
        except UserError as error:
            return Answer.failed(request.id, str(error))
        failed: Failure | None = None
        expected = (_prompt_tokens(chat), self.generation.max_new_tokens)
        async with self._slots, self.pace.turns() as turn:
            for attempt in range(1, self.limits.attempts + 1):
                await self.pace.pause(attempt, failed)
                await turn()
                if self._end is None and (reached := await self.pace.room(expected)):
                    self._at_limit = True
                    self._end = f"asking stopped at its limit ({reached}); answers so far are kept, raise it to go on"
                if self._end is not None:  # also by another question, while this one waited for its turn
                    raise AskingStoppedError(self._end)
                with self.pace.sending() as number:
                    answer, failed = await self._once(client, request, chat, attempt)
                if failed is None:
                    self.pace.streaks.usable()
                    return answer
                if failed.fatal:
                    self._end = f"{self.asked.name}: {failed.reason}"
                elif self.pace.streaks.failed(failed, _Asked(request.id), number):
                    self._end = self._given_up(failed)
                if self._end is not None:
                    raise AskingStoppedError(self._end)
                if not failed.repeat:
                    break
        return answer

    async def _once(
        self, client: "AsyncOpenAI", request: Request, chat: Any, attempt: int
    ) -> tuple[Answer, Failure | None]:
        """Send one request. Returns the answer, and why there is none."""
        try:
            body = await asyncio.wait_for(self._body(client, chat), self.limits.timeout)
        except Exception as error:
            failure = explain(error, self.limits.timeout, self.key)
        else:
            if body.text is not None:
                return self._read(request, body), None
            reason = said_without(self.key, f"unreadable response: {body.problem}")
            failure = Failure(reason, "unreadable", endpoint=False, repeat=body.broken, counts=body.broken)
        tried = f" ({attempt} attempts)" if attempt > 1 else ""
        return Answer.failed(request.id, failure.reason + tried), failure

    async def _body(self, client: "AsyncOpenAI", chat: Any) -> Body:
        fields = {**parameters_of(self.generation), **self.asked.parameters}
        sent = await client.chat.completions.with_raw_response.create(
            model=self.asked.model,
            messages=chat,
            extra_body={name: value for name, value in fields.items() if value is not None},
        )
        body = read_body(sent.text)
        self.pace.count(body.tokens, (_prompt_tokens(chat), len(body.text or sent.text) // CHARACTERS_PER_TOKEN))
        return body

    def _read(self, request: Request, body: Body) -> Answer:
        text = (body.text or "").strip()
        self.stats.questions += 1
        self.stats.new_tokens += body.tokens[1] if body.tokens else 0
        return Answer(request.id, text, (), "length" if body.ended == "length" else "eos")

    def _given_up(self, failure: Failure) -> str:
        which = "last" if self.pace.streaks.proven else "first"
        return (
            f"{self.asked.name}: the {which} {self.limits.failures} requests failed: {failure.reason}; answers so far "
            "are kept: mend the endpoint and give the same command again (--endpoint-failures allows more)"
        )


def parameters_of(rules: GenerationRules) -> dict[str, Any]:
    """Returns the decoding settings of a protocol as fields of a request; without sampling the temperature is 0."""
    found: dict[str, Any] = {"max_tokens": rules.max_new_tokens, "seed": rules.seed, "temperature": 0}
    if rules.do_sample:
        found |= {"temperature": rules.temperature, "top_p": rules.top_p}
    return {**found, "stop": list(rules.stop)} if rules.stop else found


def _prompt_tokens(chat: Sequence[dict[str, Any]]) -> int:
    """About how many tokens a chat takes; a video counts as one picture, its frames are not counted."""
    parts = [part for message in chat for part in message["content"]]
    texts = sum(len(part["text"]) for part in parts if part["type"] == "text")
    return texts // CHARACTERS_PER_TOKEN + PICTURE_TOKENS * sum(part["type"] != "text" for part in parts)


def _results(done: Iterable["Future[Answer]"]) -> Iterator[Answer]:
    """The answers that came; then what ended the asking is raised, if something did."""
    stopped = [future for future in done if future.exception() is not None]
    yield from (future.result() for future in done if future not in stopped)
    for future in stopped:
        future.result()
