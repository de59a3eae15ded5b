"""JSON schema of recipe files for editors, generated from the recipe's classes and their docstrings."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from vidtune.recipe.types import BenchmarkEntry, DataSource, LoRA, Recipe, Stage, Train
from vidtune.recipe.values import COMPONENT_GLOB, Settings
from vidtune.registry import ORDER_RULES

MODELS: tuple[type[Settings], ...] = (Recipe, Stage, Train, LoRA, DataSource, BenchmarkEntry)
DRAFT = "http://json-schema.org/draft-07/schema#"
ARGUMENT = re.compile(r"^    (?P<names>\w+(?:, \w+)*): (?P<text>.*)$")
# A number may also be written as text: a variable, or a form that an editor's YAML parser reads as text (1e-3).
AS_TEXT: dict[str, Any] = {"type": "string", "pattern": r"\$\{[A-Za-z_]|^[-+]?[0-9.]+([eE][-+]?[0-9]+)?$"}
SHORT_FORMS: dict[str, dict[str, Any]] = {
    "Train": {"type": "number", "exclusiveMinimum": 0},
    "BenchmarkEntry": {"type": "string"},
}


def recipe_schema() -> dict[str, Any]:
    """JSON schema (draft 7) of recipe files; short forms and ``${NAME}`` in place of a number are valid."""
    schema = Recipe.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs")
    for model in MODELS:
        _describe(schema if model is Recipe else definitions[model.__name__], model)
    definitions["Stage"]["properties"]["order"]["examples"] = list(ORDER_RULES)
    definitions["Stage"]["properties"]["train"]["propertyNames"] = {"pattern": f"^({COMPONENT_GLOB.pattern})$"}
    for name, short in SHORT_FORMS.items():
        definitions[name] = {"anyOf": [_or_text(short), definitions[name]], "description": _summary(definitions[name])}
    model_or_checkpoint = [{"required": ["language_model"]}, {"required": ["checkpoint"]}]
    return {
        "$schema": DRAFT,
        "title": "vidtune recipe",
        **schema,
        "anyOf": model_or_checkpoint,
        "$defs": definitions,
    }


def documented_keys(model: type[BaseModel]) -> dict[str, str]:
    """Returns the description of each field of a recipe class, read from the Args of its docstring."""
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in _arguments(model):
        if match := ARGUMENT.match(line):
            names = match["names"].split(", ")
            texts |= dict.fromkeys(names, match["text"])
        else:
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return texts


def _arguments(model: type[BaseModel]) -> Iterator[str]:
    lines = iter((inspect.getdoc(model) or "").splitlines())
    for line in lines:
        if line == "Args:":
            break
    for line in lines:
        if not line.startswith("    "):
            return
        yield line


def _describe(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Replace pydantic's titles by the descriptions in the docstrings, and allow variables in place of numbers."""
    texts = documented_keys(model)
    schema.pop("title", None)
    schema["description"] = _summary(schema)
    for name, field in model.model_fields.items():
        key = field.alias or name
        spec = schema["properties"][key]
        spec.pop("title", None)
        if "prefixItems" in spec:
            spec["items"] = spec.pop("prefixItems")[0]
        schema["properties"][key] = {**_or_text(spec), "description": _for_editors(texts[name])}


def _or_text(spec: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value; for numbers and flags, extended by text that is converted to one."""
    if "anyOf" in spec:
        choices = [choice for part in spec["anyOf"] for choice in _or_text(part).get("anyOf", [part])]
        return {**spec, "anyOf": choices}
    if spec.get("type") == "array":
        return {**spec, "items": _or_text(spec["items"])}
    if spec.get("type") in ("integer", "number", "boolean"):
        rest = {key: value for key, value in spec.items() if key in ("default", "description")}
        return {**rest, "anyOf": [{key: value for key, value in spec.items() if key not in rest}, AS_TEXT]}
    return spec


def _for_editors(text: str) -> str:
    """A description with the words of YAML in place of Python's."""
    return re.sub(r"\bNone\b", "null", text.replace("``", "`"))


def _summary(schema: dict[str, Any]) -> str:
    return " ".join(schema["description"].partition("\n\n")[0].split())
