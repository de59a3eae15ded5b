"""Address and API key of an endpoint with the OpenAI chat API, and names of its models."""

import os
import re
from urllib.parse import SplitResult, urlsplit

from vidtune.errors import UserError

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"


def is_model_name(name: str) -> bool:
    """Whether an endpoint can be asked for a model of this name."""
    return name.isprintable() and any(letter.isalnum() for letter in name)


def key_variable(url: str) -> str | None:
    """Returns the environment variable that holds the key of an address by default; None: it needs no key."""
    return OPENAI_KEY if url == OPENAI_URL else None


def api_address(url: str, what: str) -> SplitResult:
    """Returns the parts of the address of an API.

    Args:
        what: whose address it is, for the message.

    Raises:
        UserError: no address.
    """
    try:
        address = urlsplit(url)
        host = (address.hostname or "").encode("idna")
        wrong = not host or address.port == 0 or address.scheme not in ("http", "https")
    except ValueError:  # also a host that no request can name
        wrong = True
    if wrong or not url.isprintable() or " " in url:
        said = re.sub("//[^/]*@", "//***@", url)
        raise UserError(f"{what} address {said!r}: expected http:// or https:// with a host, and a port that exists")
    return address


def shown(address: SplitResult) -> str:
    """Returns an address without secrets."""
    port = f":{address.port}" if address.port else ""
    return f"{address.scheme}://{address.hostname}{port}{address.path}"


def api_key(variable: str | None, who: str) -> str:
    """Returns the API key in an environment variable; empty where none is needed.

    Args:
        who: whose key it is, for messages.

    Raises:
        UserError: the variable is not set, or its key cannot be sent.
    """
    key = os.environ.get(variable or "", "")
    if variable and not key:
        raise UserError(f"{who} needs an API key: set the environment variable {variable}")
    if not (key.isascii() and key.isprintable() and key == key.strip()):
        raise UserError(
            f"the API key in {variable} holds what no request can carry (a letter beyond ASCII, a line "
            "end, a blank around it): set it again"
        )
    return key
