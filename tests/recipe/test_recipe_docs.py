"""docs/recipe.md names every key of a recipe with its default."""

import json
import re
from pathlib import Path

import pytest

from vidtune.recipe.fingerprint import EXECUTION_SETTINGS, OTHER_PARTS
from vidtune.recipe.types import BenchmarkEntry, Contrast, DataSource, LoRA, Recipe, Stage, Train

DOCS = Path(__file__).parents[2] / "docs" / "recipe.md"
SECTIONS = {
    Recipe: "### The recipe",
    Stage: "### A stage",
    Train: "### How a component trains",
    LoRA: "### Low-rank adapters",
    Contrast: "### What a contrastive stage compares",
    DataSource: "### Sources",
    BenchmarkEntry: "### Benchmarks",
}
ROW = re.compile(r"\| `(?P<key>\w+)`(?P<mark>°?) \| (?P<default>.*?) \| (?P<meaning>.+) \|")


def rows(model) -> dict[str, re.Match[str]]:
    """Rows of the model's table by key."""
    sections = re.split(r"^(?=#+ )", DOCS.read_text(), flags=re.MULTILINE)
    (section,) = [section for section in sections if section.startswith(SECTIONS[model])]
    return {match["key"]: match for match in ROW.finditer(section)}


def written(default) -> str:
    """As a recipe would have it."""
    text = json.dumps(list(default) if isinstance(default, tuple) else default)
    return "`" + text.replace('"', "") + "`"


@pytest.mark.parametrize("model", SECTIONS)
def test_every_key_is_documented_with_its_default(model):
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    documented = rows(model)
    assert list(documented) == list(fields) or set(documented) == set(fields)
    for key, field in fields.items():
        default = documented[key]["default"]
        if field.is_required():
            assert default == "required", key
        elif field.get_default(call_default_factory=True) is None:
            assert default and not default.startswith("`"), key
        else:
            assert default == written(field.get_default(call_default_factory=True)), key


def test_marked_keys_are_those_that_may_change_on_resuming():
    marked = {key for model in (Recipe, Stage) for key, row in rows(model).items() if row["mark"]}
    assert marked == {*EXECUTION_SETTINGS, *OTHER_PARTS}
