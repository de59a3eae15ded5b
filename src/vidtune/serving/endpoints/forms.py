"""Answers in the form of OpenAI's API: one JSON value, or server-sent events."""

import json
from collections.abc import AsyncIterator
from typing import Any

from transformers import PreTrainedTokenizerBase

from vidtune.generation.asking import Progress, Question
from vidtune.generation.settings import Answer, TokenLogprobs
from vidtune.serving.problems import ApiProblem
from vidtune.serving.wire import ChatRequest

_REASONS = {"eos": "stop", "stop": "stop", "length": "length"}


async def events(
    first: Progress,
    others: AsyncIterator[Progress],
    head: dict[str, Any],
    asked: ChatRequest,
    tokenizer: PreTrainedTokenizerBase,
) -> AsyncIterator[str]:
    """The answers as server-sent events: a role, pieces of text, the reason of each end, usage, and ``[DONE]``."""
    with_usage = asked.stream_options is not None and asked.stream_options.include_usage
    nothing = {"usage": None} if with_usage else {}

    def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
        found = {**head, "object": "chat.completion.chunk", "choices": choices, **nothing, **more}
        return json.dumps(found, ensure_ascii=False)

    def choice(number: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        return {"index": number, "delta": delta, "finish_reason": reason, "logprobs": logprobs}

    for number in range(first.question.choices):
        yield chunk([choice(number, {"role": "assistant", "content": ""})])
    finished: list[Answer] = []
    news: Progress | None = first
    try:
        while news is not None:
            if news.text or news.logprobs:
                told = _logprobs(news.logprobs, tokenizer) if asked.logprobs else None
                yield chunk([choice(news.choice, {"content": news.text}, logprobs=told)])
            if news.answer is not None:
                finished.append(news.answer)
                yield chunk([choice(news.choice, {}, _REASONS[news.answer.finish_reason])], **notes_of(news.answer))
            news = await anext(others, None)
        if with_usage:
            yield chunk([], usage=usage_of(first.question, finished))
    except ApiProblem as problem:
        yield json.dumps(problem.body, ensure_ascii=False)
    yield "[DONE]"


def choice_of(news: Progress, asked: ChatRequest, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    assert news.answer is not None
    message = {"role": "assistant", "content": news.answer.text, "refusal": None}
    told = _logprobs(news.logprobs, tokenizer) if asked.logprobs else None
    reason = _REASONS[news.answer.finish_reason]
    return {"index": news.choice, "message": message, "finish_reason": reason, "logprobs": told}


def _logprobs(tokens: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode(errors="replace"))}

    def whole(one: TokenLogprobs) -> dict[str, Any]:
        return {**entry(one.token, one.logprob), "top_logprobs": [entry(*pair) for pair in one.likeliest]}

    return {"content": [whole(one) for one in tokens], "refusal": None}


def notes_of(answer: Answer) -> dict[str, Any]:
    """What a client should know of an answer beside OpenAI's form; empty: nothing."""
    return {"vidtune": {"untrained": answer.untrained}} if answer.untrained else {}


def usage_of(question: Question, answers: list[Answer]) -> dict[str, Any]:
    """Tokens of the prompt, media included, and of the answers; ``cached_tokens``: those that were there."""
    prompt = len(question.prompt.ids)
    said = sum(len(answer.token_ids) for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": said,
        "total_tokens": prompt + said,
        "prompt_tokens_details": {"cached_tokens": question.cached},
    }
