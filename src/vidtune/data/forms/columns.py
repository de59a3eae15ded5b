"""Tables as annotations: CSV, or TSV with tabs. The first row names the columns, each other row is a record.

    id,video,question,answer
    a1,clips/kite.mp4,What flies?,A kite.

A column that holds lists or objects has them as JSON. Several media or seconds may also be separated by ``;``.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vidtune.data.forms.item import ORDER, SYSTEM
from vidtune.data.forms.media import MEDIA_KEYS, PART_KEYS
from vidtune.data.forms.turns import ANSWERS, QUESTIONS, TURN_LISTS
from vidtune.errors import UserError
from vidtune.foreign.documents import JsonError, parse_json

TABLES = (".csv", ".tsv")
_MEDIA = tuple(key for keys in MEDIA_KEYS.values() for key in keys)
_AS_JSON = (*TURN_LISTS, "meta", "extras", "history", "video_clip")
_KNOWN = (*ORDER, *_MEDIA, *TURN_LISTS, *QUESTIONS, *ANSWERS, *SYSTEM, "input", "history")
_LONGEST_CELL = 2**27
SEVERAL = ";"
"""Separator of several media or seconds in a cell."""


def table_rows(path: Path, text: str) -> Iterator[tuple[int, Any, str]]:
    """Yield line, record and problem of each row; see `vidtune.data.forms.records.Record`.

    Raises:
        UserError: the first row names no columns of turns, or one twice.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    first = text.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            if not columns:
                raise UserError(f"{path}: line 1: no row of column names ({error})") from None
            yield line, None, f"no row of a table ({error})"
            continue
        if not any(cell.strip() for cell in row):
            continue
        if not columns:
            columns = _columns(path, row)
            continue
        try:
            yield line, _record(columns, row), ""
        except ValueError as error:
            yield line, {name: cell for name, cell in zip(columns, row, strict=False) if name == "id"}, str(error)
    if not columns:
        raise UserError(f"{path}: line 1: expected the names of columns, found an empty file")


def _columns(path: Path, row: Sequence[str]) -> list[str]:
    names = [name.strip().lower() if name.strip().lower() in _KNOWN else name.strip() for name in row]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: line 1: two columns are named {twice!r}")
    has_lists = any(name in TURN_LISTS for name in names)
    if not has_lists and not (any(name in QUESTIONS for name in names) and any(name in ANSWERS for name in names)):
        found = ", ".join(map(repr, names[:12]))
        raise UserError(
            f"{path}: line 1: no columns 'question' and 'answer', and none of 'messages' or 'conversations'; "
            f"found {found}"
        )
    return names


def _record(columns: Sequence[str], row: Sequence[str]) -> dict[str, Any]:
    if len(row) > len(columns) and any(row[len(columns) :]):
        raise ValueError(f"has {len(row)} cells for {len(columns)} columns; put quotes around text with a separator")
    return {name: _value(name, cell) for name, cell in zip(columns, row, strict=False) if cell.strip()}


def _value(name: str, cell: str) -> Any:
    if name in PART_KEYS:
        return _numbers(name, cell.strip())
    starts = cell.lstrip()[:1]
    if (name in _AS_JSON or name in _MEDIA) and starts in ("[", "{"):
        return _json(name, cell)
    if name in _MEDIA:
        paths = [path.strip() for path in cell.split(SEVERAL)]
        return paths[0] if len(paths) == 1 else paths
    return cell


def _numbers(name: str, cell: str) -> Any:
    """The number of a cell, or several; an empty one between separators is None."""
    if cell.startswith("["):
        return _json(name, cell)
    try:
        numbers = [float(number) if number.strip() else None for number in cell.split(SEVERAL)]
    except ValueError:
        raise ValueError(f"key '{name}': expected a number, found {cell!r}") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _json(name: str, cell: str) -> Any:
    try:
        return parse_json(cell)
    except JsonError as error:
        raise ValueError(f"key '{name}': not valid JSON ({error.reason})") from None
