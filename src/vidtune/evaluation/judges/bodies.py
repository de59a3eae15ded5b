"""The body of a response to a chat request: the text of the judge, and the tokens that the endpoint counts.

Endpoints differ in its form, so it is read here and not by the client, and each part is read by itself: odd counts
spoil no reply.
"""

from dataclasses import dataclass
from typing import Any

from vidtune.foreign.documents import JsonError, parse_json

LONGEST_KEPT = 65_536
"""Characters of one reply or body that are kept."""
MOST_TOKENS = 10**9


@dataclass(frozen=True)
class Body:
    """What a response holds.

    Args:
        text: what the judge says; None: nothing, for the reason in ``problem``.
        tokens: numbers of prompt and completion tokens; None: the endpoint does not say.
        ended: why the text ends, as the endpoint says; None: it does not.
        odd: the endpoint answers in a form of its own, in which asking again changes nothing.
    """

    text: str | None
    problem: str = ""
    tokens: tuple[int, int] | None = None
    ended: str | None = None
    odd: bool = False


def read_body(body: str) -> Body:
    """Reads a response; content in parts is the text of its parts together."""
    try:
        response = parse_json(body)
    except JsonError:
        response = None
    if body.lstrip().startswith(("data:", "event:")):
        return Body(None, "the response is a stream of events, which was not asked for", odd=True)
    response = response if isinstance(response, dict) else {}
    tokens = _tokens(response.get("usage"))
    if isinstance(response.get("choices"), dict):
        return Body(None, "the response is no chat completion (its choices are an object)", tokens, odd=True)
    try:
        choice = response["choices"][0]
        message, ended = choice["message"], choice.get("finish_reason")
        content, refusal = message.get("content"), message.get("refusal")
    except (LookupError, TypeError, AttributeError):
        return Body(None, "the response is no chat completion", tokens)
    text = _text(content)
    if text is not None:
        return Body(text, tokens=tokens, ended=ended if isinstance(ended, str) else None)
    if isinstance(content, bool | int | float | dict):
        return Body(None, f"it holds no text (its content is {type(content).__name__})", tokens, odd=True)
    said = f"the judge refuses: {' '.join(refusal.split())[:60]!r}" if isinstance(refusal, str) else "it holds no text"
    return Body(None, said, tokens)


def shortened(text: str) -> str:
    """Returns the text as it is kept: what is beyond `LONGEST_KEPT` is cut off, and the whole length said."""
    return text if len(text) <= LONGEST_KEPT else f"{text[:LONGEST_KEPT]}... ({len(text)} characters)"


def _text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "".join(texts) if texts else None


def _tokens(usage: Any) -> tuple[int, int] | None:
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    known = [count for count in counts if type(count) is int and 0 <= count <= MOST_TOKENS]
    return (known[0], known[1]) if len(known) == 2 else None
