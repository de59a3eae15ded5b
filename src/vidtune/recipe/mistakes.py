"""Messages about a wrong recipe: one line with file, line and column."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from vidtune.errors import RecipeError, UserError
from vidtune.foreign.yaml_document import Document, Key
from vidtune.registry import UnknownNameError
from vidtune.spelling import suggestion


class Misplaced(ValueError):
    """A wrong value that is found by a check of several values together.

    Args:
        message: what is wrong.
        path: keys and indices that lead from the checked value to the wrong one.
    """

    def __init__(self, message: str, *path: Key) -> None:
        super().__init__(message)
        self.path = path


SHOWN = 200
"""Characters of a wrong value that a message shows."""

# Replace pydantic's messages that use Python's words ("tuple", "dictionary") for YAML.
OURS: dict[str, Callable[[dict[str, Any]], str]] = {
    "model_type": lambda problem: f"expected a mapping of keys to values, not {_shortened(problem['input'])}",
    "dict_type": lambda problem: f"expected a mapping of keys to values, not {_shortened(problem['input'])}",
    "tuple_type": lambda problem: f"expected a list, not {_shortened(problem['input'])}",
    "too_short": lambda problem: "must not be empty",
}


@contextmanager
def of_recipe(recipe: object) -> Iterator[None]:
    """Context manager that puts the file of a recipe in front of mistakes that are found after it was read.

    Args:
        recipe: path of its file, or name of a shipped one. Anything else has no name.
    """
    try:
        yield
    except (RecipeError, UnknownNameError) as error:
        if not isinstance(recipe, str | Path):
            raise
        raise UserError(f"{recipe}: {error}") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG or not isinstance(recipe, str | Path):
            raise
        raise UserError(f"{recipe}: {_shortened(error.filename)}: {error.strerror}") from error


def explain(error: ValidationError, document: Document, model: type[BaseModel]) -> str:
    """Returns one line about the first mistake; unknown keys come first, because they often cause the other mistakes.

    Args:
        document: the recipe as it was read.
        model: the class that refused it.
    """
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    problem: dict[str, Any] = dict(problems[0])
    path, kind = problem["loc"], problem["type"]
    inside = _dotted(path[:-1], document.value)
    if kind == "value_error":
        cause = problem["ctx"]["error"]
        return f"{document.place((*path, *getattr(cause, 'path', ())))}: {cause}"
    place = document.place(path)
    if kind == "extra_forbidden":
        where = f" in {inside}" if inside else ""
        return f"{place}: unknown key {path[-1]!r}{where}; {suggestion(str(path[-1]), _known_keys(path[:-1], model))}"
    if kind == "missing":
        return f"{place}: the key {path[-1]!r} is missing" + (f" in {inside}" if inside else "")
    name = _dotted(path, document.value)
    if kind in OURS:
        return f"{place}: {name}: {OURS[kind](problem)}"
    text = f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
    return f"{place}: {name}: {text}, not {_shortened(problem['input'])}"


def first_mistake(error: ValidationError) -> str:
    """Returns the first mistake in values that are no recipe, as "key: what is wrong"."""
    problem = error.errors(include_url=False)[0]
    cause = problem.get("ctx", {}).get("error")
    text = str(cause) if problem["type"] == "value_error" else problem["msg"]
    return ": ".join(filter(None, (".".join(map(str, problem["loc"])), text)))


def _shortened(value: Any) -> str:
    """Representation of a value of the recipe, cut off where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _known_keys(path: tuple[Key, ...], model: type[BaseModel]) -> list[str]:
    """Known keys of the value at ``path`` in a ``model``; indices, globs and stream names in the path are skipped."""
    for key in path:
        if key in _fields(model):
            model = next(iter(_models_in(_fields(model)[str(key)].annotation)), model)
    return list(_fields(model))


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _dotted(path: tuple[Key, ...], value: Any) -> str:
    """A path in the form of an override: list items are written by their name where they have one."""
    words = []
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            value = None
        words.append(str(value.get("name", key) if isinstance(key, int) and isinstance(value, dict) else key))
    return ".".join(words)
