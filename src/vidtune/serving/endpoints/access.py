"""Who may ask: the API key of a request, the name by which it asks the server, the type of its body."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request

from vidtune.serving.problems import ApiProblem


@dataclass(frozen=True)
class Access:
    """Rules that every request keeps.

    Args:
        api_key: what requests must bring along; None: nothing.
        hosts: names by which the server may be asked, against pages that lead their own name to it; none: any.
    """

    api_key: str | None = None
    hosts: Sequence[str] = ()

    async def check_host(self, request: Request) -> None:
        """Raise ApiProblem for a request that asks a host which is not served."""
        name = re.sub(r":\d*$", "", request.headers.get("host", "").lower())
        if self.hosts and name not in self.hosts:
            message = f"the host {name!r} is not served here; ask {' or '.join(self.hosts)}"
            raise ApiProblem(400, message, code="invalid_host")

    async def check(self, request: Request) -> None:
        """Raise ApiProblem for a request without the key, or with a body that any page in a browser could send.

        Browsers let a foreign page send JSON, or a header of its own, only to servers that allow it, which this one
        does not. So a form needs the header with the key, with any key where the server has none.
        """
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        bears = scheme.lower() == "bearer"
        key = given.strip().encode() if bears else b""
        if self.api_key is not None and not secrets.compare_digest(key, self.api_key.encode()):
            raise ApiProblem(401, "the API key is missing or wrong", code="invalid_api_key")
        kind = request.headers.get("content-type", "").partition(";")[0].lower()  # any page may choose what follows
        if request.method == "POST" and "json" not in kind and not (bears and kind.startswith("multipart/")):
            message = "the body is sent as Content-Type: application/json; a form needs a header Authorization: Bearer"
            raise ApiProblem(415, message, code="unsupported_media_type")
