"""Asks a chat model about many items: several requests at a time, repeated where that may help, and ended in time.

Requests that fail for a reason that may pass (429, 5xx, lost connection, time-out, unreadable reply) are repeated a
limited number of times, with growing random pauses, and never before the time that the server asks for. What is left
then is reported as unjudged. Until the first usable verdict, and while the endpoint is in trouble, one request is sent
at a time; failures in a row end the judging (`judges.streaks`), so that a dead endpoint is not paid for every item.

The client's own retries are switched off, because they do less: they are counted in no limit of requests or cost, they
do not repeat an unreadable reply, they end no response that keeps coming byte by byte, and a wait that the server asks
for holds back one request instead of all of them.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vidtune.evaluation.judges.base import JudgeItem, Judgement, JudgingStoppedError, Usage
from vidtune.evaluation.judges.bodies import Body, read_body, shortened
from vidtune.evaluation.judges.failures import Failure, OddResponse, explain
from vidtune.evaluation.judges.limits import Limits, Prices
from vidtune.evaluation.judges.pace import Pace, no_usage
from vidtune.evaluation.judges.prompts import CHARACTERS_PER_TOKEN, JudgePrompt, prompt_of
from vidtune.evaluation.judges.replies import ReplyForm, UnparsableReply
from vidtune.machine.records import RecordWriter

if TYPE_CHECKING:
    from openai import AsyncOpenAI


@dataclass(frozen=True)
class AskedJudge:
    """What is asked, and how.

    Args:
        judge: name of the judge, for messages.
        url: address of the API.
        shown_url: the same without secrets.
        key: API key; may be empty.
        parameters: sampling parameters to send, in the place of those of a prompt.
        prompt: for items that name no prompt of their own.
        lenient: replies are read leniently.
    """

    judge: str
    url: str
    shown_url: str
    key: str
    model: str
    parameters: Mapping[str, Any]
    prompt: JudgePrompt
    lenient: bool = False

    def prompt_of(self, item: JudgeItem) -> JudgePrompt:
        """The prompt by which an item is judged."""
        return prompt_of(item, self.prompt)

    def judgement(self, item: JudgeItem, reply: str, attempts: int = 0) -> Judgement:
        """A reply as a judgement. Raises UnparsableReply where the judge has to be asked again."""
        value, overlooked = self.prompt_of(item).form.reading(reply, self.lenient)
        return Judgement(item, value, attempts=attempts, reply=reply, lenient=overlooked)


def run_to_end(ask: Callable[[], Coroutine[Any, Any, Usage]]) -> Usage:
    """Run a coroutine and wait for its result.

    Where an event loop runs already in this thread, as in a notebook, the coroutine runs in another thread, on its own
    loop; an interrupt ends it there too.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(ask())
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal:
        return portal.call(ask)


class Round:
    """Asks about items once.

    Args:
        earlier: cost of earlier rounds, which counts in the limit of cost.
        cache: where replies are kept; None: nowhere.
        done: called once per item; see `Judge.judge`.
    """

    def __init__(
        self,
        endpoint: AskedJudge,
        limits: Limits,
        prices: Prices | None,
        earlier: float,
        cache: RecordWriter | None,
        done: Callable[[Judgement], None],
    ) -> None:
        self.endpoint = endpoint
        self.limits = limits
        self.cache = cache
        self.done = done
        self.pace = Pace(limits, prices, no_usage(prices), earlier)
        self.usage, self.streaks = self.pace.usage, self.pace.streaks
        self._at_limit: JudgingStoppedError | None = None

    async def run(self, waiting: Mapping[str, Sequence[JudgeItem]], known: Mapping[str, str]) -> Usage:
        """Ask about everything that is not known.

        Args:
            waiting: key of a request -> items that it answers.
            known: key -> reply that is known.

        Raises:
            JudgingStoppedError: the endpoint refuses everything, requests keep failing, or a limit is reached.
        """
        from openai import AsyncOpenAI

        unknown = iter([key for key in waiting if key not in known])
        for key in (key for key in waiting if key in known):
            self._report(waiting[key], self.endpoint.judgement(waiting[key][0], known[key]))

        client = AsyncOpenAI(
            api_key=self.endpoint.key or "none",
            base_url=self.endpoint.url,
            timeout=self.limits.timeout,
            max_retries=0,
        )

        client.chat.completions.with_raw_response  # noqa: B018 - loads modules, which must not take a request's time

        async def work() -> None:
            for key in unknown:
                if self._at_limit is None:
                    await self._ask(client, key, waiting[key])

        async with client:
            workers = [asyncio.create_task(work()) for _ in range(self.limits.concurrency)]
            try:
                await asyncio.gather(*workers)
                if self._at_limit is not None:
                    raise self._at_limit
            except JudgingStoppedError as stopped:
                stopped.usage = self.usage
                raise
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return self.usage

    def _report(self, items: Sequence[JudgeItem], judgement: Judgement) -> None:
        _, *same = items
        self.usage.cached += len(items) - bool(judgement.attempts)
        self.done(judgement)
        for item in same:
            self.done(replace(judgement, item=item, attempts=0))

    async def _ask(self, client: "AsyncOpenAI", key: str, items: Sequence[JudgeItem]) -> None:
        """Ask until there is a reply that can be read, and report it."""
        failed: Failure | None = None
        unread = 0
        prompt = self.endpoint.prompt_of(items[0])
        async with self.pace.turns() as turn:
            for attempt in range(1, self.limits.attempts + 1):
                await self.pace.pause(attempt, failed)
                await turn()
                if self._at_limit is None and (
                    reached := await self.pace.room(prompt.expected_tokens(items[0], unread))
                ):
                    self._at_limit = JudgingStoppedError(
                        f"judging stopped at its limit ({reached}); judgements so far are kept: raise it (--budget, "
                        "--judge-max-calls), and the same command goes on"
                    )
                if self._at_limit is not None:
                    return  # those under way are waited for
                with self.pace.sending() as request:
                    judgement, failed = await self._judgement(client, key, items[0], attempt, unread)
                unreadable = failed is not None and judgement.reply is not None
                unread += unreadable
                failure = failed or _without_verdict(judgement.value, prompt.form)
                if failure is None:
                    self.streaks.usable()
                elif self.streaks.failed(failure, items[0], request):
                    self._report(items, judgement)
                    raise self._stopped(failure, unreadable)
                last = attempt == self.limits.attempts or prompt.gives_up(unread)
                if failed is None or not failed.repeat or last:
                    self._report(items, judgement)
                    return

    async def _judgement(
        self, client: "AsyncOpenAI", key: str, item: JudgeItem, attempt: int, unread: int
    ) -> tuple[Judgement, Failure | None]:
        """Send one request. Returns the judgement, and why there is none; ``unread`` as in `JudgePrompt.messages`."""
        reply = None
        try:
            body = await asyncio.wait_for(self._request(client, key, item, unread), self.limits.timeout)
            reply = body.text
            if reply is None:
                raise (OddResponse if body.odd else UnparsableReply)(body.problem)
            return self.endpoint.judgement(item, reply, attempt), None
        except Exception as error:
            failure = explain(error, self.limits.timeout, self.endpoint.key)
        if failure.body:
            self._keep(key, "body", failure.body)
        if failure.fatal:
            raise JudgingStoppedError(f"judge {self.endpoint.judge} at {self.endpoint.shown_url}: {failure.reason}")
        tried = f" ({attempt} attempts)" if attempt > 1 else ""
        return Judgement(item, error=failure.reason + tried, attempts=attempt, reply=reply), failure

    async def _request(self, client: "AsyncOpenAI", key: str, item: JudgeItem, unread: int) -> Body:
        """Send one request and keep what comes."""
        prompt = self.endpoint.prompt_of(item)
        chat: Any = prompt.messages(item, unread)
        parameters: Any = {**prompt.parameters_after(unread), **self.endpoint.parameters}
        sent: Any = await client.chat.completions.with_raw_response.create(
            model=self.endpoint.model, messages=chat, **parameters
        )
        raw = sent.text
        body = read_body(raw)
        expected = prompt.expected_tokens(item, unread)
        said = len(body.text) // CHARACTERS_PER_TOKEN + 1 if body.text is not None else 0
        self.pace.count(body.tokens, (expected[0], max(expected[1], said)))
        if body.text is None:
            self._keep(key, "body", shortened(raw))
            return body
        reply = shortened(body.text)
        self._keep(key, "reply", reply)
        return replace(body, text=reply)

    def _keep(self, key: str, what: str, text: str) -> None:
        if self.cache is not None:
            self.cache.append({"key": key, "model": self.endpoint.model, what: text})

    def _stopped(self, failure: Failure, unreadable: bool) -> JudgingStoppedError:
        """The error that ends the judging; ``unreadable``: the judge's last reply came, and cannot be read."""
        which = "last" if self.streaks.proven else "first"
        what = "failed" if failure.repeat else "were refused" if failure.kind.startswith("HTTP") else "gave no verdict"
        hint = "; --replies lenient reads more" if unreadable and not self.endpoint.lenient else ""
        return JudgingStoppedError(
            f"judge {self.endpoint.judge} at {self.endpoint.shown_url}: the {which} {self.limits.failures} requests "
            f"{what}: {failure.reason}; what is judged is kept: mend the endpoint and judge again "
            f"(--judge-failures allows more{hint})"
        )


def _without_verdict(value: Any, form: ReplyForm) -> Failure | None:
    """The failure of a reply that can be read but holds no verdict that counts."""
    if form.counts(value):
        return None
    state = form.state(value)
    return Failure(f"{state}: {str(value)[:60]!r}", state, endpoint=False, repeat=False)
