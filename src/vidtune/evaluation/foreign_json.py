"""JSON and Python literals that other programs have written. What has no single reading is refused."""

import ast
import json
from collections.abc import Iterator, Sequence
from typing import Any

from vidtune.spelling import HALF_A_CHARACTER

LONGEST_INTEGER = 300
"""Digits. Longer ones have no finite floating-point value."""


class ForeignValueError(ValueError):
    """A value that has no single reading, such as an object that has a key twice."""


def parse_json(text: str) -> Any:
    """Returns the value of a JSON text.

    Raises:
        json.JSONDecodeError: not JSON.
        ForeignValueError: a key stands twice in one object, or an integer is too long.
        RecursionError: nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_object, parse_int=_integer)


def parse_literal(text: str) -> Any:
    """Returns the value of a Python literal, such as the text of a dict.

    Raises:
        ForeignValueError: a key stands twice in one dict.
        ValueError, SyntaxError, MemoryError, RecursionError: no literal, or nested too deeply.
    """
    tree = ast.parse(text, mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            _require_different([ast.literal_eval(key) for key in node.keys if key is not None])
    return ast.literal_eval(tree)


def half_characters(value: Any, place: str = "") -> Iterator[str]:
    r"""Yields the places of texts and keys that hold half a character (a lone ``\ud800``), which no file can store."""
    if isinstance(value, str):
        if HALF_A_CHARACTER.search(value):
            yield place
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from half_characters(key, f"{place}: a key")
            yield from half_characters(one, f"{place}: {key!r}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from half_characters(one, f"{place}: entry {number}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        _require_different([name for name, _ in pairs])
    return found


def _require_different(names: Sequence[Any]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise ForeignValueError(f"the key {name!r} stands twice in one object")
        seen.add(name)


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise ForeignValueError(f"an integer of {len(digits)} digits ({digits[:8]}...)")
    return int(digits)
