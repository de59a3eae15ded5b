"""The page as it is sent: nothing on it runs but its own script, and nothing is loaded from elsewhere."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from fastapi.responses import HTMLResponse


def page_response() -> HTMLResponse:
    """Returns the page with its Content-Security-Policy."""
    page, policy = _page()
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(page, headers=headers)


@cache
def _page() -> tuple[str, str]:
    page = (files("vidtune.serving.page") / "index.html").read_text("utf-8")
    rules = (
        "default-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "connect-src 'self'",
        "img-src data: blob:",
        "media-src blob:",
        f"style-src {_hash(page, 'style')}",
        f"script-src {_hash(page, 'script')}",
    )
    return page, "; ".join(rules)


def _hash(page: str, tag: str) -> str:
    """Source expression that allows the one element of a tag, by what stands in it."""
    [content] = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode('ascii')}'"
