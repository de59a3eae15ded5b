"""Files of a test set: annotations in JSON, and stored features in the place of videos."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from vidtune.errors import UserError
from vidtune.evaluation.benchmarks.named_files import Named, NamedFiles, walk, without_extension
from vidtune.foreign.containment import is_inside
from vidtune.foreign.documents import JsonError, decoded, may_hold_half_characters, parse_json, whole_characters
from vidtune.foreign.files import read_foreign

Key = TypeVar("Key")
Value = TypeVar("Value")
LARGEST = 1e9
"""Largest number of seconds, or of what is counted in them, that a test set may hold."""


def value_and_bytes(path: Path) -> tuple[Any, bytes]:
    r"""Returns the value of a JSON file, and its bytes. Half a character (a lone ``\ud800``) is read as U+FFFD.

    Raises:
        UserError: the file cannot be read, is not valid JSON (names the file, line and column), or has a key twice in
            one object.
    """
    text, content = text_and_bytes(path)
    return _value(path, text), content


def text_and_bytes(path: Path) -> tuple[str, bytes]:
    """Returns the text of a file, and its bytes.

    Raises:
        UserError: the file cannot be read or is not UTF-8.
    """
    content = read_foreign(path)
    return decoded(path, content), content


def value_of(text: str, line: int | None = None) -> Any:
    """Returns the value of a JSON text, each half of a character as U+FFFD.

    Args:
        line: number of the line that is the text; None: it is a whole file.

    Raises:
        JsonError: it is not valid JSON, or has a key twice in one object.
    """
    value = parse_json(text, line=line, keys_once=True)
    return whole_characters(value) if may_hold_half_characters(text) else value


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """Returns the lines of a file of JSON lines that are not empty, with their numbers from 1."""
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _value(path: Path, text: str, line: int | None = None) -> Any:
    try:
        return value_of(text, line)
    except JsonError as error:
        raise UserError(f"{path}: {error}") from None


def read_list(path: Path) -> tuple[list[Any], bytes]:
    """Returns the list that a JSON file holds, or the values of the lines of a ``.jsonl`` file, and its bytes.

    Raises:
        UserError: see `value_and_bytes`, or the file holds no list.
    """
    if path.suffix == ".jsonl":
        return read_lines(path)
    entries, content = value_and_bytes(path)
    if not isinstance(entries, list):
        raise UserError(f"{path}: expected a list of objects, found {type(entries).__name__}")
    return entries, content


def read_lines(path: Path) -> tuple[list[Any], bytes]:
    """Returns the values of the lines of a file of JSON lines, whatever its name ends in, and its bytes.

    Raises:
        UserError: see `value_and_bytes`.
    """
    text, content = text_and_bytes(path)
    return [_value(path, line, number) for number, line in numbered_lines(text)], content


def place_in(path: Path, index: int | str | None) -> str:
    """Returns file and entry, for messages; see `field_of`."""
    return str(path) if index is None else f"{path}: entry {index}"


def field_of(path: Path, index: int | str | None, entry: Any, key: str, kinds: tuple[type, ...]) -> Any:
    """Returns a value of one entry of a list in a file.

    Args:
        index: place of the entry, from 0; of an entry in an entry, both: "3, question 1"; None: the file is the entry.

    Raises:
        UserError: the entry is no object, or its value is absent or of another type; names file, entry and key.
    """
    where = place_in(path, index)
    if not isinstance(entry, dict):
        raise UserError(f"{where} is {type(entry).__name__}, expected an object")
    if key not in entry:
        raise UserError(f"{where} has no {key!r}")
    value = entry[key]
    finite = not isinstance(value, float) or math.isfinite(value)
    if isinstance(value, bool) or not isinstance(value, kinds) or not finite:
        expected = " or ".join(kind.__name__ for kind in kinds)
        found = type(value).__name__ if finite else str(value)
        raise UserError(f"{where}: {key!r} is {found}, expected {expected}")
    return value


def name_of(path: Path, index: int | str | None, entry: Any, key: str, otherwise: object) -> str:
    """Returns the id of an entry, or another name that it may lack: then ``otherwise``.

    Raises:
        UserError: it is neither text nor a whole number; names file, entry and key.
    """
    lacks = isinstance(entry, dict) and entry.get(key) is None
    return str(otherwise if lacks else field_of(path, index, entry, key, (str, int)))


def above_zero(path: Path, index: int | str | None, entry: Any, key: str) -> float:
    """Returns a number of an entry that must be above 0, such as seconds.

    Raises:
        UserError: it is another one, or above `LARGEST`; names file, entry and key.
    """
    found = field_of(path, index, entry, key, (int, float))
    if not 0 < found <= LARGEST:
        raise UserError(f"{place_in(path, index)}: {key!r} is {found:g}, expected a number above 0, up to {LARGEST:g}")
    return float(found)


def is_there(path: Path) -> bool:
    """Whether a file or folder that a test set names is there; one with a name longer than any file's is not."""
    return os.path.exists(path)  # noqa: PTH110 - `Path.exists` raises for such a name


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
        UserError: no such folder, or a file in it is a link that leaves it.
    """
    from vidtune.media.feature_file import FEATURE_SUFFIXES

    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise UserError(f"features of {stream}: {folder} is no folder")
    plain = {name: without_extension(name) for name in names}
    files = NamedFiles(walk(folder), "", prefix, sorted(FEATURE_SUFFIXES), (), (*plain, *plain.values()))
    found = {name: files.find(name) for name in plain}
    unfound = [name for name, one in found.items() if one.file is None and one.similar is None and name != plain[name]]
    found |= {name: files.find(plain[name]) for name in unfound}  # named after the video without its extension
    paths = {name: one.file or one.similar for name, one in found.items()}
    for given in filter(None, paths.values()):
        if not is_inside(folder / given, folder):
            raise UserError(
                f"features of {stream}: {folder / given} is a link that leaves the folder; copy the file into it"
            )
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
