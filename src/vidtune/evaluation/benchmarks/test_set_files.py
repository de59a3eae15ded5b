"""Files of a test set: annotations in JSON, and stored features in the place of videos."""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.named_files import Named, NamedFiles, walk
from vidtune.evaluation.foreign_json import ForeignValueError, half_characters, parse_json

Key = TypeVar("Key")
Value = TypeVar("Value")

_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_annotations(path: Path) -> tuple[Any, bytes]:
    """Returns the value of a JSON file, and its bytes.

    Raises:
        UserError: the file cannot be read, is not valid JSON (names the file, line and column), has a key twice in one
            object, or holds something that cannot be stored or printed.
    """
    text, content = read_text(path)
    return _value(path, text, line=0), content


def read_text(path: Path) -> tuple[str, bytes]:
    """Returns the text of a file, and its bytes.

    Raises:
        UserError: the file cannot be read or is not UTF-8.
    """
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig"), content
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def _value(path: Path, text: str, line: int) -> Any:
    """Args: line: number of lines of the file before the text."""
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        where = f"line {line + error.lineno}, column {error.colno}"
        raise UserError(f"{path}: {where}: not valid JSON ({error.msg})") from None
    except ForeignValueError as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; expected a list of objects") from None
    half = next(half_characters(value), None) if _ESCAPED_HALF.search(text) else None
    if half is not None:
        raise UserError(f"{path}{half}: holds half a character, such as \\ud800; write the whole character")
    return value


def read_list(path: Path) -> tuple[list[Any], bytes]:
    """Returns the list that a JSON file holds, or the values of the lines of a ``.jsonl`` file, and its bytes.

    Raises:
        UserError: see `read_annotations`, or the file holds no list.
    """
    if path.suffix == ".jsonl":
        return read_lines(path)
    entries, content = read_annotations(path)
    if not isinstance(entries, list):
        raise UserError(f"{path}: expected a list of objects, found {type(entries).__name__}")
    return entries, content


def read_lines(path: Path) -> tuple[list[Any], bytes]:
    """Returns the values of the lines of a file of JSON lines, whatever its name ends in, and its bytes.

    Raises:
        UserError: see `read_annotations`.
    """
    text, content = read_text(path)
    lines = enumerate(text.split("\n"))
    return [_value(path, line, number) for number, line in lines if line.strip()], content


def field_of(path: Path, index: int, entry: Any, key: str, kinds: tuple[type, ...]) -> Any:
    """Returns a value of one entry of a list in a file.

    Raises:
        UserError: the entry is no object, or its value is absent or of another type; names file, entry and key.
    """
    if not isinstance(entry, dict):
        raise UserError(f"{path}: entry {index} is {type(entry).__name__}, expected an object")
    if key not in entry:
        raise UserError(f"{path}: entry {index} has no {key!r}")
    value = entry[key]
    finite = not isinstance(value, float) or math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, kinds) or not finite:
        expected = " or ".join(kind.__name__ for kind in kinds)
        found = type(value).__name__ if finite else str(value)
        raise UserError(f"{path}: entry {index}: {key!r} is {found}, expected {expected}")
    return value


def each_once(entries: Iterable[tuple[str, Key, Value]], what: str) -> dict[Key, Value]:
    """Returns the values by their keys.

    Args:
        entries: (file and entry, key, value).
        what: name of the key, for the message.

    Raises:
        UserError: a key stands there twice; names both entries.
    """
    found: dict[Key, Value] = {}
    places: dict[Key, str] = {}
    for where, key, value in entries:
        if key in places:
            raise UserError(f"{where}: {what} {key!r} is also that of {places[key]}; each may stand there once")
        found[key], places[key] = value, where
    return found


def feature_files(stream: str, folder: Path, names: Iterable[str], prefix: str) -> dict[str, Named]:
    """Returns the feature file of each video, with its absolute path; `named_files` says which names are found.

    Args:
        names: names of the videos.
        prefix: what may stand before the name of a video, as in the names of the video files.

    Raises:
        UserError: no such folder.
    """
    from vidtune.media.feature_file import FEATURE_SUFFIXES

    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise UserError(f"features of {stream}: {folder} is no folder")
    names = dict.fromkeys(names)
    files = NamedFiles(walk(folder), "", prefix, sorted(FEATURE_SUFFIXES), (), names)
    found = {name: files.find(name) for name in names}
    paths = {name: one.file or one.similar for name, one in found.items()}
    return {
        name: replace(one, file=None if (path := paths[name]) is None else str(folder / path))
        for name, one in found.items()
    }


def set_folder(data: Path, places: Iterable[str], holds: Callable[[Path], bool], wanted: str) -> Path:
    """The folder of a test set: ``data``, or one of these places in it.

    Raises:
        UserError: none of them holds it; names what is looked for.
    """
    for place in ("", *places):
        if holds(data / place):
            return (data / place).resolve()
    inside = "".join(f", {place}/" for place in places)
    raise UserError(f"{data}: no {wanted} here{f' or in{inside[1:]}' if inside else ''}; give the folder that holds it")


def set_file(data: Path, places: Iterable[str], names: Sequence[str], title: str) -> tuple[Path, Path]:
    """The folder of a test set, and the first of these annotation files in it.

    Raises:
        UserError: see `set_folder`.
    """

    def there(folder: Path) -> list[Path]:
        return [folder / name for name in names if (folder / name).is_file()]

    folder = set_folder(data, places, lambda place: bool(there(place)), f"{names[0]} of {title}")
    return folder, there(folder)[0]
