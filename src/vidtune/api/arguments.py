"""Arguments of public functions: a value of a wrong type is named in one line, and mistakes by names of arguments."""

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from vidtune.errors import UserError
from vidtune.processing.asked_media import Paths

_OPTION = re.compile(r"--(?P<name>[a-z]+(-[a-z]+)*)( (?=[A-Z]+\b))?")
_OTHER_NAMES = {"model_base": "base", "tower": "towers", "box": "target"}
"""Options of the command line whose argument in Python has another name."""
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def names_arguments(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Decorator: the errors of a function name its arguments (``base=``), not the options of the command line.

    The command line, which calls these functions too, prints `UserError.with_options`.
    """
    arguments = set(inspect.signature(function).parameters)

    def argument(option: re.Match[str]) -> str:
        name = option["name"].replace("-", "_")
        name = _OTHER_NAMES.get(name, name)
        return f"{name}=" if name in arguments else option[0]

    @wraps(function)
    def named(*given: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        try:
            return function(*given, **options)
        except UserError as error:
            error.with_options = error.with_options or str(error)
            error.args = (_OPTION.sub(argument, str(error)),)
            raise

    return named


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
