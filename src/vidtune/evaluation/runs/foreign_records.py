"""Reads files of records that other programs have written: JSON lines, or one JSON list.

Such files differ from our own (`machine.records`): the last line need not end, a byte order mark or the line ends of
Windows may be there, and a line may be a Python literal, which published scripts read with ``eval``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.foreign.documents import JsonError, parse_json, parse_literal, read_text


def read_foreign_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place of every record, as ``line 3`` or ``entry 3``, counted from 1, and the record.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or holds something else than objects; names the place.
    """
    for place, value in _values(path, read_text(path)):
        if not isinstance(value, dict):
            raise UserError(f"{path}: {place}: not valid JSON (expected an object, found {type(value).__name__})")
        yield place, value


def _values(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        whole = parse_json(text, keys_once=True)
    except JsonError as error:
        if text.lstrip().startswith("[") or (error.column is None and not _is_whole(text.lstrip().partition("\n")[0])):
            cut = "; is the list cut off?" if error.column is not None else ""
            raise UserError(f"{path}: {error}{cut}") from None
    else:
        if isinstance(whole, list):
            yield from ((f"entry {number}", value) for number, value in enumerate(whole, start=1))
        else:
            yield "line 1", whole
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _value_of_line(path, number, line.strip())


def _value_of_line(path: Path, number: int, line: str) -> Any:
    try:
        return parse_json(line, line=number, keys_once=True)
    except JsonError as error:
        if error.column is not None:  # no JSON at all
            try:
                return parse_literal(line)
            except JsonError as twice:
                raise UserError(f"{path}: line {number}: {twice}") from None
            except ValueError:
                pass
        cut = "" if error.column is None or line.endswith(("}", "]")) else "; is the line cut off?"
        raise UserError(f"{path}: {error}{cut}") from None


def _is_whole(line: str) -> bool:
    """Whether a line is a record of its own, not the start of one that is printed on several lines."""
    try:
        parse_json(line)
    except JsonError as error:
        return error.column is None
    return True
