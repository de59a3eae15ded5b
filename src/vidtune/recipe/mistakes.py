"""What is wrong with a recipe, in one line that says where."""

from collections.abc import Callable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from vidtune.recipe.yaml_document import Document, Key
from vidtune.spelling import suggestion


class Misplaced(ValueError):
    """A mistake that a check of several values together finds in one of them.

    Args:
        message: what is wrong.
        path: keys and indices from the checked value to the wrong one.
    """

    def __init__(self, message: str, *path: Key) -> None:
        super().__init__(message)
        self.path = path


# pydantic speaks of Python where it does not know YAML.
OURS: dict[str, Callable[[dict[str, Any]], str]] = {
    "model_type": lambda problem: f"expected a mapping of keys to values, not {problem['input']!r}",
    "dict_type": lambda problem: f"expected a mapping of keys to values, not {problem['input']!r}",
    "tuple_type": lambda problem: f"expected a list, not {problem['input']!r}",
    "too_short": lambda problem: "must not be empty",
}


def explain(error: ValidationError, document: Document, model: type[BaseModel]) -> str:
    """One line for the first thing that is wrong; unknown keys come first, for they often cause the rest.

    Args:
        document: what did not fit.
        model: what it was to become.
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
    return f"{place}: {name}: {text}, not {problem['input']!r}"


def _known_keys(path: tuple[Key, ...], model: type[BaseModel]) -> list[str]:
    """Keys of the value at ``path`` in a ``model``; indices, globs and stream names on the way change nothing."""
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
    """A path as an override would write it: list items by their name where they have one."""
    words = []
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            value = None
        words.append(str(value.get("name", key) if isinstance(key, int) and isinstance(value, dict) else key))
    return ".".join(words)
