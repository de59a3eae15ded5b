"""Checks of the arguments of public functions: a value of a wrong type is named in one line."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vidtune.errors import UserError
from vidtune.processing.asked_media import Paths


def texts_of(given: str | Sequence[str], name: str) -> list[str]:
    """One text or several, as a list. Raises UserError for anything else."""
    texts = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{name}: expected a text or a list of texts, found {given!r}")
    return [str(text) for text in texts]


def checked_path(given: Any, name: str) -> None:
    """Raise UserError unless a value is a path."""
    if not isinstance(given, str | Path):
        raise UserError(f"{name}: expected a path, found {given!r}")


def checked_paths(given: Paths, name: str) -> Paths:
    """Return one path, several or none as they are. Raises UserError for anything else."""
    for path in () if given is None else given if isinstance(given, list | tuple) else [given]:
        checked_path(path, name)
    return given
