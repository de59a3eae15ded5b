"""``POST /v1/chat/completions``: one question, its answers as one JSON value or as server-sent events."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from vidtune.errors import UserError
from vidtune.generation.asking import Progress, Question
from vidtune.serving.endpoints.forms import choice_of, events, notes_of, usage_of
from vidtune.serving.endpoints.metrics import Metrics
from vidtune.serving.limits import Places
from vidtune.serving.media import MediaIntake
from vidtune.serving.messages import media_of, turns_of
from vidtune.serving.problems import ApiProblem
from vidtune.serving.served import ID, ServedModel
from vidtune.serving.wire import ChatRequest, chat_request

_SEND_SECONDS = 60.0
"""Seconds that a client may take to receive a piece of a stream."""


class _Stream(EventSourceResponse):
    """A stream that frees what its request held, also when nobody has read a piece of it."""

    def __init__(self, events: AsyncIterator[str], held: AsyncExitStack) -> None:
        super().__init__(events, sep="\n", ping=15, send_timeout=_SEND_SECONDS)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._held.aclose()


@dataclass(frozen=True)
class ChatEndpoint:
    """Answers chat requests.

    Args:
        known: name -> model; raises ApiProblem for an unknown name.
        intake: finds the files of media.
        places: limits.
        metrics: counts what is asked.
    """

    known: Callable[[str], ServedModel]
    intake: MediaIntake
    places: Places
    metrics: Metrics

    async def __call__(self, request: Request) -> Response:
        """Returns the response. Raises ApiProblem if there is no answer."""
        deadline = asyncio.get_running_loop().time() + self.places.limits.seconds
        found: Response | None = None
        async with AsyncExitStack() as held:
            held.enter_context(self.places.place())
            body = await self.places.body(request)
            held.enter_context(self.places.room(len(body)))
            asked = chat_request(body)
            model = self.known(asked.model)
            held.enter_context(self.metrics.answering(model.name))
            found = await _unless_gone(request, self._response(asked, model, held, deadline))
        return found or Response(status_code=499)

    async def _response(
        self, asked: ChatRequest, model: ServedModel, held: AsyncExitStack, deadline: float
    ) -> Response:
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model.name}
        async with _until(deadline):
            question = await self._question(asked, model)
        answers = await held.enter_async_context(aclosing(self._timed(model, question, deadline)))
        if asked.stream:
            first = await anext(answers)  # what cannot be answered gets a status of its own
            pieces = events(first, answers, head, asked, model.processor.tokenizer)
            return _Stream(pieces, held.pop_all())
        finished: dict[int, Progress] = {}
        async for news in answers:
            finished[news.choice] = news
        choices = [choice_of(finished[number], asked, model.processor.tokenizer) for number in sorted(finished)]
        usage = usage_of(question, [news.answer for news in finished.values() if news.answer])
        last = news.answer
        notes = {} if last is None else notes_of(last)
        content = {**head, "object": "chat.completion", "choices": choices, "usage": usage, **notes}
        return Response(json.dumps(content, ensure_ascii=False), media_type="application/json")

    async def _question(self, asked: ChatRequest, model: ServedModel) -> Question:
        media = [await self.intake.take(one) for one in media_of(asked.messages)]
        prompt = asked.prompt or model.prompt
        try:
            model.asking(prompt)
        except UserError as error:
            raise ApiProblem(400, str(error), param="prompt") from None
        turns = turns_of(asked.messages, model.processor, prompt, ID)
        told = (asked.top_logprobs or 0) if asked.logprobs else None
        settings = asked.settings(secrets.randbits(62))
        return await model.question(turns, media, settings, prompt, choices=asked.n or 1, told=told, grows=asked.stream)

    async def _timed(self, model: ServedModel, question: Question, deadline: float) -> AsyncGenerator[Progress, None]:
        """The news of a question. Raises ApiProblem when its time is over."""
        began = time.monotonic()
        async with aclosing(model.answers(question)) as answers:
            while True:
                async with _until(deadline):
                    news = await anext(answers, None)
                if news is None:
                    return
                began = self.metrics.count(model.name, news, began)
                yield news


class _until:
    """Context manager: ApiProblem (504) at a time of the event loop."""

    def __init__(self, deadline: float) -> None:
        self._timeout = asyncio.timeout_at(deadline)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._timeout.__aexit__(*error)
        except TimeoutError:
            raise ApiProblem(504, "the answer took longer than allowed", code="request_timeout") from None


async def _unless_gone(request: Request, answer: Awaitable[Response]) -> Response | None:
    """Returns a response; None: the client has gone meanwhile, and the work for it was given up."""
    work = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
