"""The schema for editors says of a recipe what the reader says of it."""

from pathlib import Path
from typing import Any

import pytest

from vidtune.errors import UserError
from vidtune.foreign.yaml_document import read_yaml
from vidtune.recipe.files import load_recipe, recipe_file
from vidtune.recipe.json_schema import MODELS, documented_keys, recipe_schema
from vidtune.recipe.shipped import list_recipes

jsonschema = pytest.importorskip("jsonschema")

RECIPE = """\
system: any
language_model: {model_type: llama}
seed: ${SEED:-7}
stages:
  - name: align
    train: {connectors: 1e-3, "towers.*": {learning_rate: 1.0e-5}}
    data: [{annotations: a.json, weight: 0.5}]
    global_batch_size: 8
    max_grad_norm: 1
    gradient_checkpointing: true
    betas: [0.9, 0.98]
    media: {image: {pad_to_square: true}}
  - name: instruct
    from: align
    train: {language_model: {learning_rate: 2e-5, lora: {rank: 8, layers: [q_proj]}}}
    data: [{annotations: b.json, media: ${ROOT}}]
    global_batch_size: ${BATCH}
    quantize: 4bit
    workers: 0
benchmarks: [one, {name: two, data: /data, limit: 5}]
trackers: [tensorboard, wandb]
"""


def plain(path: Path) -> Any:
    """A recipe file as an editor sees it: variables unresolved."""
    return read_yaml(path, {}).value


def problems(value: Any) -> list[str]:
    validator = jsonschema.Draft7Validator(recipe_schema())
    return [problem.message for problem in validator.iter_errors(value)]


def test_schema_is_a_schema():
    jsonschema.Draft7Validator.check_schema(recipe_schema())


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_is_valid(name):
    assert problems(plain(recipe_file(name))) == []


def test_short_forms_variables_and_from_are_valid(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert problems(plain(tmp_path / "recipe.yaml")) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("system:", "sistem:"),
        ("language_model:", "language_modell:"),
        ("global_batch_size: 8", "batch_size: 8"),
        ("global_batch_size: 8", "global_batch_size: many"),
        ("global_batch_size: 8", "global_batch_size: 0"),
        ("{connectors: 1e-3,", "{connector: 1e-3,"),
        ("{connectors: 1e-3,", "{connectors: fast,"),
        ("{connectors: 1e-3,", "{connectors: -1,"),
        ("lora: {rank: 8,", "lora: {rnak: 8,"),
        ("lora: {rank: 8,", "lorra: {rank: 8,"),
        ("{learning_rate: 2e-5,", "{"),
        ("weight: 0.5", "wieght: 0.5"),
        ("name: align", "name: ../align"),
        ("quantize: 4bit", "quantize: 2bit"),
        ("limit: 5", "limit: none"),
        ("wandb", "wandbb"),
        ("betas: [0.9, 0.98]", "betas: [0.9]"),
        ("train: {language_model", "train: {}\n    prompt: {language_model"),
    ],
)
def test_what_the_reader_refuses_is_not_valid(old, new, tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT", "/data")
    monkeypatch.setenv("BATCH", "4")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    load_recipe(path)
    assert old in RECIPE
    path.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(UserError):
        load_recipe(path)
    assert problems(plain(path))


def test_every_key_says_what_it_means():
    schema = recipe_schema()
    for model in MODELS:
        assert set(documented_keys(model)) == set(model.model_fields), model
    stage = schema["$defs"]["Stage"]["properties"]
    assert stage["from"]["description"].endswith("for the first stage, the model that the recipe describes.")
    assert (
        stage["max_grad_norm"]["description"] == "gradient norm above which gradients are clipped; null: no clipping."
    )
    assert stage["max_tokens_per_batch"]["default"] == 8192
