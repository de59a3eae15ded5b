"""Reads files of records that other programs have written: JSON lines, or one JSON list.

Such files differ from our own (`machine.records`): the last line need not end, a byte order mark or the line ends of
Windows may be there, and a line may be a Python literal, which published scripts read with ``eval``.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.evaluation.foreign_json import ForeignValueError, parse_json, parse_literal


def read_foreign_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place of every record, as ``line 3`` or ``entry 3``, counted from 1, and the record.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or holds something else than objects; names the place.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    for place, value in _values(path, text):
        if not isinstance(value, dict):
            raise UserError(f"{path}: {place}: not valid JSON (expected an object, found {type(value).__name__})")
        yield place, value


def _values(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        whole = parse_json(text)
    except ForeignValueError as error:
        if text.lstrip().startswith("[") or not _is_whole(text.lstrip().partition("\n")[0]):
            raise UserError(f"{path}: {error}") from None
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("["):
            raise UserError(
                f"{path}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}); is the list cut off?"
            ) from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; expected JSON lines, or a list of objects") from None
    else:
        if isinstance(whole, list):
            yield from ((f"entry {number}", value) for number, value in enumerate(whole, start=1))
        else:
            yield "line 1", whole
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _value_of_line(f"{path}: line {number}", line.strip())


def _value_of_line(where: str, line: str) -> Any:
    try:
        return parse_json(line)
    except json.JSONDecodeError as error:
        try:
            return parse_literal(line)
        except ForeignValueError as twice:
            raise UserError(f"{where}: {twice}") from None
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            hint = "" if line.endswith(("}", "]")) else "; is the line cut off?"
            raise UserError(f"{where}, column {error.colno}: not valid JSON ({error.msg}){hint}") from None
    except ForeignValueError as error:
        raise UserError(f"{where}: {error}") from None
    except RecursionError:
        raise UserError(f"{where}: not valid JSON (nested too deeply)") from None


def _is_whole(line: str) -> bool:
    """Whether a line is a record of its own, not the start of one that is printed on several lines."""
    try:
        json.loads(line, parse_int=str)
    except (json.JSONDecodeError, RecursionError):
        return False
    return True
