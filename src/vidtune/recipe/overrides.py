"""Overrides of recipe values: ``stages.finetune.epochs=0.5``."""

from typing import Any

from vidtune.errors import UserError
from vidtune.foreign.yaml_document import Document, Key, parse_yaml
from vidtune.spelling import suggestion


def override(document: Document, assignment: str) -> None:
    """Change one value of a document.

    Args:
        document: changed in place.
        assignment: ``a.b.c=value``; list items are addressed by their index or their ``name``. The value is YAML.

    Raises:
        UserError: the assignment has no ``=``, or its path leads through a value that does not exist.
    """
    dotted, equals, text = assignment.partition("=")
    if not equals or not dotted.strip():
        raise UserError(f"override {assignment!r}: expected key=value, for example seed=1 or stages.0.epochs=2")
    source = f"override {assignment!r}"
    value = parse_yaml(text, source).require_set().value
    path = _assign(document, dotted.strip().split("."), value, source)
    document.places = {known: place for known, place in document.places.items() if known[: len(path)] != path}
    document.unset = {known: message for known, message in document.unset.items() if known[: len(path)] != path}
    document.places[path] = source


def _assign(document: Document, parts: list[str], value: Any, source: str) -> tuple[Key, ...]:
    """Put a value where the parts of its dotted path lead, and return that path."""
    path: tuple[Key, ...] = ()
    here = document.value
    while True:
        key: Key
        if isinstance(here, list):
            key, taken = _item_index(here, parts[0], source), 1
            if len(parts) > 1 and isinstance(here[key], str):  # the short form of an entry that has a name
                here[key] = {"name": here[key]}
        elif isinstance(here, dict):
            key, taken = _mapping_key(here, parts, inside=path[-1] if path else "")
            if here.get(key) is None:
                here[key] = {}
                document.places[*path, key] = source
        else:
            raise UserError(f"{source}: {'.'.join(map(str, path))} is {here!r} and has no keys")
        path, parts = (*path, key), parts[taken:]
        if not parts:
            here[key] = value
            return path
        here = here[key]


def _mapping_key(mapping: dict[str, Any], parts: list[str], inside: Key) -> tuple[str, int]:
    """Key of ``mapping`` with which the path goes on, and how many parts it takes; a key may contain dots."""
    for taken in range(len(parts), 0, -1):
        if ".".join(parts[:taken]) in mapping:
            return ".".join(parts[:taken]), taken
    if inside == "train":
        return ".".join(parts), len(parts)
    return parts[0], 1


def _item_index(items: list[Any], part: str, source: str) -> int:
    names = [item.get("name") if isinstance(item, dict) else item for item in items]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(items):
        return int(part)
    known = [name for name in names if isinstance(name, str)]
    raise UserError(f"{source}: there is no {part!r} among {len(items)} items; {suggestion(part, known)}")
