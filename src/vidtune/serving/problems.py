"""Errors as OpenAI's API writes them: a status and ``{"error": {"message", "type", "param", "code"}}``."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
    507: "server_error",
}


_SHOWN = 1000
"""Characters of a message."""


class ApiProblem(Exception):
    """A request that cannot be answered.

    Args:
        status: HTTP status.
        message: what is wrong, what to do; shown as one line, also where it quotes what a client sent.
        code: short name of the problem, for programs.
        param: part of the request that is wrong, such as ``messages[0].content[1]``.
        retry_after: seconds after which another try is worth it; None: it is not.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code = status, code
        self.message, self.param = _line(message), None if param is None else _line(param)
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON value of the response."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> Mapping[str, str]:
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


@contextmanager
def storing(where: str) -> Iterator[None]:
    """Context manager in which a file that a client gives is written.

    Args:
        where: place in the request, for messages.

    Raises:
        ApiProblem: the disk is full (507), or takes no file for another reason (503).
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            status, code, reason = 507, "disk_full", "has no room left on its disk"
        else:
            status, code, reason = 503, "not_stored", f"cannot store it ({error.strerror or type(error).__name__})"
        message = f"{where}: the server {reason}; try again later"
        raise ApiProblem(status, message, code=code, param=where, retry_after=60) from None


def _line(text: str) -> str:
    """A text as one line that UTF-8 can hold: half characters and those that do not print are written as escapes."""
    short = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in short)
