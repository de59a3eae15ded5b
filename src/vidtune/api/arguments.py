"""Arguments of public functions: a value of a wrong type is named in one line, and mistakes by names of arguments."""

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass
from functools import partial, wraps
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

    A method of a dataclass names the fields of its object too.

    The command line, which calls these functions too, prints `UserError.with_options`.
    """
    arguments = set(inspect.signature(function).parameters)

    def argument(option: re.Match[str], known: set[str]) -> str:
        name = option["name"].replace("-", "_")
        return next((f"{one}=" for one in (_OTHER_NAMES.get(name), name) if one in known), option[0])

    @wraps(function)
    def named(*given: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        try:
            return function(*given, **options)
        except UserError as error:
            error.with_options = error.with_options or str(error)
            own = {field.name for field in fields(given[0])} if given and is_dataclass(given[0]) else set()
            error.args = (_OPTION.sub(partial(argument, known=arguments | own), error.with_options),)
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
