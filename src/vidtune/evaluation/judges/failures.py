"""Why a request to a judge failed, and whether it can be repeated."""

import email.utils
import math
import re
import time
from dataclasses import dataclass
from typing import Any

from vidtune.evaluation.judges.bodies import error_words, shortened
from vidtune.evaluation.judges.replies import UnparsableReply

LONGEST_MESSAGE = 200
_FATAL_CODES = ("insufficient_quota", "model_not_found", "invalid_api_key")
_NO_SUCH_MODEL = re.compile(
    r"\bmodel\b.{0,80}\b(not found|does not exist|doesn't exist|not exist|is unknown)"
    r"|\b(invalid|unknown|no such|not a valid) model\b",
    re.IGNORECASE,
)


class OddResponse(ValueError):
    """A response came in a form of the endpoint's own, and will again."""


@dataclass(frozen=True)
class Failure:
    """One failed request.

    Args:
        reason: one line, without secrets.
        kind: what failures of other items have in common with this one.
        endpoint: the endpoint is in trouble, not the item.
        any_item: the item cannot be the cause.
        repeat: the same request may succeed later.
        fatal: no request of this run can succeed.
        counts: it is counted against the endpoint; see `judges.streaks`.
        retry_after: seconds that the server asks to wait; 0: it does not say.
        body: what came instead of a reply, as it is kept, without secrets.
    """

    reason: str
    kind: str
    endpoint: bool = True
    any_item: bool = False
    repeat: bool = True
    fatal: bool = False
    counts: bool = True
    retry_after: float = 0.0
    body: str = ""


def explain(error: Exception, timeout: float, key: str) -> Failure:
    """Returns what an exception of the client means; an unknown exception is raised again.

    Args:
        timeout: seconds that a request may take, for the message.
        key: API key, removed from messages that quote it.
    """
    import openai

    if isinstance(error, OddResponse):
        said = said_without(key, f"unreadable reply: {error}")
        return Failure(said, "odd response", endpoint=False, repeat=False, counts=False)
    if isinstance(error, UnparsableReply):
        return Failure(said_without(key, f"unreadable reply: {error}"), "unreadable", endpoint=False)
    if isinstance(error, UnicodeEncodeError):
        # The texts of items and the key are looked at before: what is left is in every request.
        return Failure(f"the request cannot be sent ({error})", "not sent", repeat=False, fatal=True)
    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
        return Failure(f"no reply within {timeout:g} s", "time-out")
    if isinstance(error, openai.APIConnectionError):
        return Failure(f"no connection ({error.__cause__ or error})"[:LONGEST_MESSAGE], "no connection", any_item=True)
    if isinstance(error, openai.APIStatusError):
        return _explain_status(error, key)
    if isinstance(error, (openai.APIError, ValueError)):
        return Failure(f"unreadable response ({type(error).__name__})", "unreadable")
    raise error


def said_without(key: str, text: str) -> str:
    """Returns a text of an endpoint as part of a message: without the API key, and cut."""
    return (text.replace(key, "***") if key else text)[:LONGEST_MESSAGE]


def _explain_status(error: Any, key: str) -> Failure:
    status = error.status_code
    body = error.body if isinstance(error.body, dict) else {}
    message = error_words(error.body) or " ".join(str(error.message).split())
    whole = str(error.response.text)
    if key:
        message, whole = message.replace(key, "***"), whole.replace(key, "***")
    whole = shortened(whole)
    kind = f"HTTP {status}"
    reason = f"{kind}: {message}"[:LONGEST_MESSAGE]
    unknown = status in (400, 403, 422) and _NO_SUCH_MODEL.search(message)
    if status in (401, 404) or body.get("code") in _FATAL_CODES or unknown:
        return Failure(reason, kind, repeat=False, fatal=True, body=whole)
    if status in (408, 409, 425, 429) or status >= 500:
        wait = _retry_after(error.response.headers)
        return Failure(reason, kind, any_item=status == 429, retry_after=wait, body=whole)
    return Failure(reason, kind, endpoint=False, repeat=False, body=whole)


def _retry_after(headers: Any) -> float:
    """Seconds to wait, from a ``Retry-After`` header that holds a number or a date."""
    value = headers.get("retry-after")
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
