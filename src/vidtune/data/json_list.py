"""Annotation files that are one JSON list, or hold one JSON value in each line (``*.jsonl``), read item by item."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from vidtune.errors import UserError
from vidtune.foreign.documents import JsonError, decoded, json_error, next_json

WHITESPACE = re.compile(r"[ \t\n\r]*")
LINES = ".jsonl"
"""Suffix of files that hold one JSON value in each line."""
LISTS = (".yaml", ".yml")


Item = TypeVar("Item")


def read_items(path: Path, content: bytes, read: Callable[[Any], Item]) -> Iterator[Item]:
    """Return an iterator of what a function makes of each item of a file.

    Args:
        path: path of the file, for messages.
        content: content of the whole file.
        read: raises ValueError for an item of the wrong form.

    Raises:
        UserError: the file is not UTF-8 or not valid JSON (names line and column), or an item has the wrong form (names
            its index).
    """
    return (read_item(path, index, item, read) for index, item in enumerate(list_items(path, content)))


def read_item(path: Path, index: int, item: Any, read: Callable[[Any], Item]) -> Item:
    """Return what a function makes of one item, see `read_items`."""
    try:
        return read(item)
    except ValueError as error:
        raise UserError(f"{path}: item {index}: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: item {index}: nested too deeply") from None


def list_items(path: Path, content: bytes) -> Iterator[Any]:
    """Yield the items of a JSON list or of JSON lines; only one at a time exists as a Python object.

    Args:
        path: path of the file, for messages.
        content: content of the whole file.

    Raises:
        UserError: the file is not UTF-8 or not valid JSON; names line and column.
    """
    text = decoded(path, content)
    try:
        yield from _lines(text) if path.suffix == LINES else _list(path, text)
    except JsonError as error:
        raise UserError(f"{path}: {error}") from None


def _lines(text: str) -> Iterator[Any]:
    """Yield the value of each line that is not empty. Raises JsonError."""
    position = _skip_space(text, 0)
    while position < len(text):
        item, end = next_json(text, position)
        position = _skip_space(text, end)
        if position < len(text) and "\n" not in text[end:position]:
            raise json_error("Extra text after a sample; write one sample in each line", text, position)
        yield item


def _list(path: Path, text: str) -> Iterator[Any]:
    """Yield the items of a JSON list. Raises JsonError."""
    position = _skip_space(text, 0)
    if text[position : position + 1] != "[":
        hint = "; a list of data sets is of format: mixture" if path.suffix in LISTS else ""
        raise UserError(f"{path}: line 1: expected a JSON list of samples{hint}")
    position, first = _skip_space(text, position + 1), True
    while text[position : position + 1] != "]":
        if not first:
            if text[position : position + 1] != ",":
                raise json_error("Expecting ',' or ']' after a sample", text, position)
            position = _skip_space(text, position + 1)
        item, position = next_json(text, position)
        yield item
        position, first = _skip_space(text, position), False
    if (rest := _skip_space(text, position + 1)) < len(text):
        raise json_error("Extra text after the list", text, rest)


def _skip_space(text: str, position: int) -> int:
    match = WHITESPACE.match(text, position)
    return match.end() if match else position


def kind_of(value: Any) -> str:
    """Return what a JSON value is, for messages: "a list"."""
    if value is None:
        return "nothing"
    if value == "" or value == []:
        return "an empty one"
    return {dict: "an object", list: "a list", str: "a string", bool: "a truth value"}.get(type(value), "a number")


def text_of(item: dict[str, Any], key: str) -> str:
    """Return the text at a key. Raises ValueError if it is missing or something else."""
    if not isinstance(item.get(key), str):
        raise ValueError(f"key '{key}': expected a string, found {kind_of(item.get(key))}")
    text: str = item[key]
    return text
