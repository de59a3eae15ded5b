"""Files of records: one JSON list, JSON lines, or a table with columns. What a file is shows in its content.

A record that cannot be read costs itself; the others are read.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vidtune.data.annotation import Annotation
from vidtune.data.forms.columns import TABLES, table_rows
from vidtune.data.forms.values import identity_of
from vidtune.errors import UserError
from vidtune.foreign.documents import JsonError, decoded, json_error, next_json, whole_characters

UNUSABLE = "record of a wrong form"
LINES, LISTS = (".jsonl", ".ndjson"), (".yaml", ".yml")
_SPACE = re.compile(r"[ \t\n\r]*")
_NEXT_LINE = re.compile(r"\n[ \t]*(?=\{)")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a file.

    Args:
        line: the line on which it begins, from 1.
        value: JSON value.
        problem: why it cannot be read; empty: it can.
    """

    line: int
    value: Any = None
    problem: str = ""


def read_annotations(path: Path, content: bytes, read: Callable[[Any], Annotation]) -> Iterator[Annotation]:
    """Yield what a function makes of each record of a file; one that has a wrong form becomes a problem.

    Args:
        path: path of the file, for messages.
        content: content of the whole file.
        read: raises ValueError for a record of the wrong form.

    Raises:
        UserError: the file is not UTF-8 text, no JSON list, or a table without the columns (names line and column).
    """
    for record in records(path, content):
        problem = record.problem
        if not problem:
            try:
                yield read(record.value)
                continue
            except (ValueError, RecursionError, OverflowError) as error:
                problem = str(error) or type(error).__name__
        identity = identity_of(record.value.get("id")) if isinstance(record.value, dict) else ""
        problem = whole_characters(f"line {record.line}: {problem}")
        yield Annotation(identity, (), (), problem=(UNUSABLE, problem), item={"problem": UNUSABLE}, form=UNUSABLE)


def read_annotation(path: Path, index: int, item: Any, read: Callable[[Any], Made]) -> Made:
    """Return what a function makes of one item of a file.

    Raises:
        UserError: the item has the wrong form; names its index.
    """
    try:
        return read(item)
    except ValueError as error:
        raise UserError(f"{path}: item {index}: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: item {index}: nested too deeply") from None


def records(path: Path, content: bytes) -> Iterator[Record]:
    """Yield the records of a file; of JSON, only one at a time exists as a Python object.

    Raises:
        UserError: see `read_annotations`.
    """
    text = decoded(path, content)
    if path.suffix.lower() in TABLES:
        yield from (Record(*row) for row in table_rows(path, text))
        return
    try:
        start = _skip_space(text, 0)
        if text[start : start + 1] == "{" or (not text[start:] and path.suffix.lower() in LINES):
            yield from _lines(text, start)
        elif text[start : start + 1] == "[":
            yield from _list(text, start)
        else:
            is_mixture = path.suffix in LISTS
            hint = "; a list of data sets is of format: mixture" if is_mixture else ", or one JSON object in each line"
            raise UserError(f"{path}: line 1: expected a JSON list of samples{hint}")
    except JsonError as error:
        raise UserError(f"{path}: {error}") from None


def _lines(text: str, position: int) -> Iterator[Record]:
    """Yield the value of each line that is not empty."""
    line = 1 + text.count("\n", 0, position)
    while position < len(text):
        try:
            value, end = next_json(text, position)
            following = _skip_space(text, end)
            if following < len(text) and "\n" not in text[end:following]:
                raise json_error("Extra text after a sample; write one sample in each line", text, following)
            yield Record(line, value)
        except JsonError as error:
            # A record is an object: the next one begins on the next line that begins so.
            found = _NEXT_LINE.search(text, position)
            following = found.end() if found else len(text)
            yield Record(line, problem=f"not valid JSON ({error.reason})")
        line += text.count("\n", position, following)
        position = following


def _list(text: str, position: int) -> Iterator[Record]:
    """Yield the items of a JSON list. Raises JsonError."""
    line, begin = 1, 0
    position, first = _skip_space(text, position + 1), True
    while text[position : position + 1] != "]":
        if not first:
            if text[position : position + 1] != ",":
                raise json_error("Expecting ',' or ']' after a sample", text, position)
            position = _skip_space(text, position + 1)
        line += text.count("\n", begin, position)
        begin = position
        try:
            value, position = next_json(text, position)
            yield Record(line, value)
        except JsonError as error:
            end = _end_of_value(text, position)
            if end is None:
                raise
            position = end
            yield Record(line, problem=f"not valid JSON ({error.reason})")
        position, first = _skip_space(text, position), False
    if (rest := _skip_space(text, position + 1)) < len(text):
        raise json_error("Extra text after the list", text, rest)


def _end_of_value(text: str, position: int) -> int | None:
    """Where a JSON value ends that is too deep; None: it is no JSON, or far too deep."""
    try:
        return json.JSONDecoder(parse_int=float).raw_decode(text, position)[1]
    except (ValueError, RecursionError):
        return None


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
