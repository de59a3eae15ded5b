"""Values of JSON records: what they are, for messages, and the text, numbers and paths that they hold."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from vidtune.spelling import HALF_A_CHARACTER

WEB_ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_EMBEDDED, _LOCAL = "data:", "file://"


def kind_of(value: Any) -> str:
    """Return what a JSON value is, for messages: "a list"."""
    if value is None:
        return "nothing"
    if value == "" or value == []:
        return "an empty one"
    return {dict: "an object", list: "a list", str: "a string", bool: "a truth value"}.get(type(value), "a number")


def text_of(item: Mapping[str, Any], key: str) -> str:
    """Return the text at a key. Raises ValueError if it is missing or something else."""
    if not isinstance(item.get(key), str):
        raise ValueError(f"key '{key}': expected a string, found {kind_of(item.get(key))}")
    text: str = item[key]
    return text


def number_of(value: Any, key: str, unit: str = "seconds") -> float:
    """Return a number; one that is too large for a float is infinite. Raises ValueError for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"key '{key}': expected a number of {unit}, found {kind_of(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def identity_of(value: Any) -> str:
    """Return the id of a record as text, whatever JSON value it is; empty: there is none."""
    if value is None:
        return ""
    return HALF_A_CHARACTER.sub("\ufffd", value) if isinstance(value, str) else json.dumps(value)


def path_of(value: Any, key: str) -> str:
    """Return a path that a record names; ``file://`` in front of it is removed.

    Raises:
        ValueError: another value, half a character, a web address, or a file that is written into the record itself.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"key '{key}': expected a path or a list of paths, found {kind_of(value)}")
    if HALF_A_CHARACTER.search(value):
        raise ValueError(f"key '{key}': half a character is in the path {value!r}")
    if value.startswith(_EMBEDDED):
        raise ValueError(f"key '{key}': holds a file itself ({value[:20]!r} ...); write it to a file and give its path")
    if WEB_ADDRESS.match(value):
        raise ValueError(f"key '{key}': {value!r} is a web address; download the file and give its path below media")
    return unquote(value.removeprefix(_LOCAL)) if value.startswith(_LOCAL) else value
