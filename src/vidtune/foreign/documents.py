"""Reads text and JSON that others wrote: bounded in size and depth, and with one error for whatever is wrong.

JSON may be a whole file (`read_json`), one line of a file (`parse_json`) or one value of a longer text (`next_json`).
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from vidtune.errors import ForeignFileError
from vidtune.foreign.files import CONTENT_LIMIT, read_foreign
from vidtune.spelling import HALF_A_CHARACTER

MAX_DEPTH = 100
"""Levels of nested objects and lists in JSON and YAML."""
TOO_DEEP = f"more than {MAX_DEPTH} nested levels"
SETTINGS_LIMIT = 2**28
"""Bytes of a JSON file of settings, an index or a state."""
LONGEST_INTEGER = 300
"""Digits. Longer ones have no finite floating-point value."""
LONGEST_LITERAL = 10**7
"""Characters of a Python literal."""
_MAY_BE_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


class JsonError(ValueError):
    """JSON that cannot be read. ``str`` is "line 3, column 7: not valid JSON (reason)", without what is not known.

    Args:
        reason: what is wrong.
        line: line, from 1; None: not known.
        column: column, from 1; None: not known.
    """

    def __init__(self, reason: str, line: int | None = None, column: int | None = None) -> None:
        place = [f"line {line}"] * (line is not None) + [f"column {column}"] * (column is not None)
        super().__init__(f"{', '.join(place)}{': ' if place else ''}not valid JSON ({reason})")
        self.reason, self.line, self.column = reason, line, column


def parse_json(
    text: str | bytes, *, line: int | None = None, keys_once: bool = False, long_integers: bool = False
) -> Any:
    """Return the value of a JSON text.

    Args:
        text: the text; bytes are UTF-8.
        line: number of the line, from 1, that the text is in its file; None: it is the whole file.
        keys_once: refuse an object that has a key twice; otherwise the last one counts.
        long_integers: read integers of more than 300 digits, as far as Python does.

    Raises:
        JsonError: no JSON, more than 100 nested levels, or an integer that is too long.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        value = (_ONCE if keys_once else _LONG if long_integers else _JSON).decode(text)
        _require_shallow(value, text)
    except json.JSONDecodeError as error:
        raise JsonError(error.msg, (line or 1) + error.lineno - 1, error.colno) from None
    except UnicodeDecodeError as error:
        raise JsonError("not UTF-8 text", line or error.object.count(b"\n", 0, error.start) + 1) from None
    except RecursionError:
        raise JsonError(TOO_DEEP, line) from None
    except ValueError as error:
        raise JsonError(getattr(error, "reason", str(error)), line) from None
    return value


def next_json(text: str, position: int) -> tuple[Any, int]:
    """Return the JSON value that begins at a position of a longer text, and the position after it.

    An integer of more than 300 digits is read as an infinite float: it costs its own value, not the whole text.

    Raises:
        JsonError: no JSON, or more than 100 nested levels.
    """
    reason, where = "", position
    try:
        value, end = _PIECE.raw_decode(text, position)
        _require_shallow(value, text, position, end)
        return value, end
    except json.JSONDecodeError as error:
        reason, where = error.msg, error.pos
    except RecursionError:
        reason = TOO_DEEP
    except ValueError as error:
        reason = str(error)
    raise json_error(reason, text, where)


def json_error(reason: str, text: str, position: int) -> JsonError:
    """Return the error of JSON that is wrong at a position of a text."""
    return JsonError(reason, text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position))


def read_text(path: Path, *, limit: int = CONTENT_LIMIT) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    Raises:
        ForeignFileError: the file cannot be read, or is not UTF-8 (names the line).
    """
    return decoded(path, read_foreign(path, limit=limit))


def decoded(path: Path, content: bytes) -> str:
    """Return the text of the content of a file; see `read_text`."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        reason = f"line {line}: not UTF-8 text (byte 0x{content[error.start]:02X}); save the file as UTF-8"
        raise ForeignFileError(str(path), reason) from None


def read_json(path: Path, *, limit: int = SETTINGS_LIMIT) -> Any:
    """Return the value of a JSON file.

    Raises:
        ForeignFileError: the file cannot be read or is not valid JSON; names the file, line and column.
    """
    try:
        return parse_json(read_text(path, limit=limit))
    except JsonError as error:
        raise ForeignFileError(str(path), str(error)) from None


def read_object(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file.

    Raises:
        ForeignFileError: the file cannot be read, is not valid JSON or holds another value; names the file.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ForeignFileError(str(path), f"expected an object, found {type(value).__name__}")
    return value


def types_of(record: type) -> dict[str, tuple[type, ...]]:
    """Type of each field of a dataclass as JSON holds it, for `require_types`: numbers are also whole numbers,
    sequences are lists and mappings dicts.
    """
    hints = get_type_hints(record)
    return {one.name: tuple(_json_types(hints[one.name])) for one in fields(record)}


def _json_types(hint: Any) -> Iterator[type]:
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        for one in get_args(hint):
            yield from _json_types(one)
        return
    kind = get_origin(hint) or hint
    yield _IN_JSON.get(kind, kind)
    if kind is float:
        yield int


_IN_JSON: dict[type, type] = {Mapping: dict, Sequence: list}


def require_types(record: Mapping[str, Any], types: Mapping[str, type | tuple[type, ...]]) -> None:
    """Raise ValueError if a key of a record is missing or of another type; names it.

    Args:
        types: type of each key, or several; a key that may be missing has the type of None, too. A truth value is no
            number.
    """
    for key, kinds in types.items():
        value = record.get(key)
        allowed = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            raise ValueError(f"{key!r} is missing or has a wrong value")


def parse_literal(text: str) -> Any:
    """Return the value of a Python literal, such as the text of a dict.

    Raises:
        JsonError: a key stands twice in one dict.
        ValueError: no literal, or nested too deeply.
    """
    if len(text) > LONGEST_LITERAL:
        raise ValueError(f"a literal of {len(text):,} characters")
    try:
        tree = ast.parse(text, mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                _require_different([ast.literal_eval(key) for key in node.keys if key is not None])
        value = ast.literal_eval(tree)
        _require_shallow(value, text)
    except (SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise ValueError(f"no Python literal ({type(error).__name__})") from None
    return value


def whole_characters(value: Any) -> Any:
    r"""Return a JSON value in which half a character (a lone ``\ud800``), which no file can store, is U+FFFD.

    Raises:
        JsonError: two keys of an object become equal.
    """
    if isinstance(value, str):
        return HALF_A_CHARACTER.sub("\ufffd", value)
    if isinstance(value, dict):
        whole = {whole_characters(key): whole_characters(one) for key, one in value.items()}
        if len(whole) < len(value):
            raise JsonError("two keys of an object differ in half a character alone")
        return whole
    return [whole_characters(one) for one in value] if isinstance(value, list) else value


def may_hold_half_characters(text: str) -> bool:
    """Whether the value of a JSON text may hold half a character; False: `whole_characters` would change nothing."""
    return _MAY_BE_HALF.search(text) is not None


def _require_shallow(value: Any, text: str, start: int = 0, end: int | None = None) -> None:
    """Raise ValueError if a value has too many levels.

    Args:
        text: holds the JSON of the value between ``start`` and ``end``; with few brackets there, no value is looked at.
    """
    if sum(text.count(bracket, start, end) for bracket in "[{(") <= MAX_DEPTH:
        return
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [one for outer in level for one in _inner(outer) if isinstance(one, dict | list | tuple)]
        if not level:
            return
    raise ValueError(TOO_DEEP)


def _inner(outer: Any) -> Iterable[Any]:
    return outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list | tuple) else ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        _require_different([name for name, _ in pairs])
    return found


def _require_different(names: Sequence[Any]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise JsonError(f"the key {name!r} stands twice in one object")
        seen.add(name)


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(digits)} digits ({digits[:8]}...)")
    return int(digits)


_JSON = json.JSONDecoder(parse_int=_integer)
_PIECE = json.JSONDecoder(parse_int=lambda digits: (int if len(digits) <= LONGEST_INTEGER else float)(digits))
_LONG = json.JSONDecoder()
_ONCE = json.JSONDecoder(parse_int=_integer, object_pairs_hook=_object)
