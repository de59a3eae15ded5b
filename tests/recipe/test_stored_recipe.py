"""Stored recipes: their relative paths are found from the folder in which the training command ran."""

import json
import warnings
from pathlib import Path

import pytest

from vidtune.errors import UserError
from vidtune.recipe.files import dump_recipe, load_recipe
from vidtune.recipe.stored import found_from, stored_recipe

# Every key that may hold a path, with the same one; all other texts are names.
EVERYWHERE = """\
system: things
language_model: things/a
tokenizer: things/a
towers: {video: things/a, image: {hidden_act: things}}
connectors: {video: things/a}
lora_runs: [things/a]
distillation: {video: {teacher: things/a}}
features: things/a
stages:
  - name: things
    train: {connectors: 1e-3}
    data: [{annotations: things/a, media: things/a, features: {video: things/a}}]
    global_batch_size: 1
  - name: next
    from: things
    train: {connectors: 1e-3}
    data: [{annotations: other/b}]
    global_batch_size: 1
  - name: last
    from: things/a
    train: {connectors: 1e-3}
    data: [{annotations: other/b}]
    global_batch_size: 1
benchmarks: [{name: things, data: things/a, features: {video: things/a}}]
packages: []
"""
PLACES = 13


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "project/things/a").mkdir(parents=True)
    result, away = tmp_path / "result", tmp_path / "away"
    result.mkdir()
    away.mkdir()
    (result / "recipe.yaml").write_text(EVERYWHERE)
    (result / "provenance.json").write_text(json.dumps({"step": 3, "folder": str(tmp_path / "project")}))
    monkeypatch.chdir(away)
    return result


def test_every_path_is_found_and_no_name_is_taken_for_one(stored: Path) -> None:
    found = dump_recipe(stored_recipe(stored))
    project = stored.parent / "project"
    assert EVERYWHERE.count("things/a") == PLACES == found.count(f"{project}/things/a")
    assert found.replace(f"{project}/", "") == dump_recipe(load_recipe(stored / "recipe.yaml"))
    assert "hidden_act: things\n" in found and "from: things\n" in found and "annotations: other/b" in found


def test_the_folder_of_training_comes_before_that_of_the_command(stored: Path, monkeypatch) -> None:
    project, away = stored.parent / "project", stored.parent / "away"
    (away / "things/a").mkdir(parents=True)
    with pytest.warns(UserWarning, match=f"things/a: taken from {project}/things/a, where .*, not from {away}"):
        assert dump_recipe(stored_recipe(stored)).count(f"{project}/things/a") == PLACES
    (project / "things/a").rmdir()
    (away / "things/a").rmdir()
    for folder in (away, project):  # where only one of them has it, or both are the same, nothing is said
        (folder / "things/a").mkdir()
        monkeypatch.chdir(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert stored_recipe(stored) == load_recipe(stored / "recipe.yaml")


def test_where_the_folder_is_not_known_those_above_the_result_are_tried(stored: Path) -> None:
    def assert_paths_start_from(folder: Path) -> None:
        found = stored_recipe(stored)
        assert found == found_from(load_recipe(stored / "recipe.yaml"), [folder])
        assert (found.tokenizer == "things/a") == (folder == Path("/nowhere"))

    tellings = ({}, {"folder": 3}, [], {"folder": str(stored.parent / "moved away")}, None)
    for told in tellings:
        if told is None:
            (stored / "provenance.json").unlink()
        else:
            (stored / "provenance.json").write_text(json.dumps(told))
        assert_paths_start_from(Path("/nowhere"))
    (stored.parent / "things/a").mkdir(parents=True)
    assert_paths_start_from(stored.parent)
    (stored / "things/a").mkdir(parents=True)  # inside the result itself, not above it
    assert_paths_start_from(stored.parent)
    assert stored_recipe(stored.parent) is None


def test_a_folder_in_the_place_of_a_recipe_is_named_with_the_recipe_in_it(stored: Path) -> None:
    with pytest.raises(UserError, match=r"result: is a folder, not a recipe file; did you mean .*result/recipe.yaml"):
        load_recipe(stored)
    with pytest.raises(UserError, match=r"away: is a folder, not a recipe file$"):
        load_recipe(stored.parent / "away")
