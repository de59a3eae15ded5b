"""The body of a response to a chat request: the text of the judge, and the tokens that the endpoint counts.

Endpoints differ in its form, so it is read here and not by the client, and each part is read by itself: odd counts
spoil no reply.
"""

import re
from dataclasses import dataclass
from typing import Any

from vidtune.foreign.documents import JsonError, parse_json

LONGEST_KEPT = 65_536
"""Characters of one reply or body that are kept."""
MOST_TOKENS = 10**9
_STREAM = re.compile(r"\ufeff?\s*(:[^\n]*\s+)*(data|event|id|retry):")
"""A stream of events, which may begin with comments."""
_SAID = ("text", "output_text", None)
"""Types of the parts that hold what is said, not what was thought before."""


@dataclass(frozen=True)
class Body:
    """What a response holds.

    Args:
        text: what the judge says; None: nothing, for the reason in ``problem``.
        tokens: numbers of prompt and completion tokens; None: the endpoint does not say.
        ended: why the text ends, as the endpoint says; None: it does not.
        odd: the endpoint answers in a form of its own, in which asking again changes nothing.
        broken: it is no chat completion at all, such as half of one or a page of a gateway.
    """

    text: str | None
    problem: str = ""
    tokens: tuple[int, int] | None = None
    ended: str | None = None
    odd: bool = False
    broken: bool = False


def read_body(body: str) -> Body:
    """Reads a response; content in parts is the text of its parts together."""
    try:
        response = parse_json(body)
    except JsonError:
        response = None
    if _STREAM.match(body):
        return Body(None, "the response is a stream of events, which was not asked for", odd=True)
    response = response if isinstance(response, dict) else {}
    tokens = _tokens(response.get("usage"))
    choices = response.get("choices")
    if isinstance(choices, dict | str | int | float):
        kind = "an object" if isinstance(choices, dict) else type(choices).__name__
        return Body(None, f"the response is no chat completion (its choices are {kind})", tokens, odd=True)
    try:
        choice = response["choices"][0]
        message, ended = choice["message"], choice.get("finish_reason")
        content, refusal = message.get("content"), message.get("refusal")
    except (LookupError, TypeError, AttributeError):
        said = error_words(response)
        return Body(None, "the response is no chat completion" + (said and f" ({said})"), tokens, broken=True)
    text = _text(content)
    if text is not None:
        return Body(text, tokens=tokens, ended=ended if isinstance(ended, str) else None)
    if isinstance(content, bool | int | float | dict) or (isinstance(content, list) and content):
        return Body(None, f"it holds no text (its content is {type(content).__name__})", tokens, odd=True)
    said = f"the judge refuses: {' '.join(refusal.split())[:60]!r}" if isinstance(refusal, str) else "it holds no text"
    return Body(None, said, tokens)


def shortened(text: str) -> str:
    """Returns the text as it is kept: what is beyond `LONGEST_KEPT` is cut off, and the whole length said."""
    return text if len(text) <= LONGEST_KEPT else f"{text[:LONGEST_KEPT]}... ({len(text)} characters)"


def error_words(body: Any) -> str:
    """Returns what an endpoint says of an error, in one line; empty: nothing.

    Args:
        body: of the response, or its ``error``: a text, or an object in one of the forms that servers use.
    """
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and body.get(name):
            return error_words(body[name])
    return " ".join(body.split()) if isinstance(body, str) else ""


def _text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    said = [part for part in parts if isinstance(part, dict) and part.get("type") in _SAID]
    texts = [part["text"] for part in said if isinstance(part.get("text"), str)]
    return "".join(texts) if texts else None


def _tokens(usage: Any) -> tuple[int, int] | None:
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    known = [count for count in counts if type(count) is int and 0 <= count <= MOST_TOKENS]
    return (known[0], known[1]) if len(known) == 2 else None
