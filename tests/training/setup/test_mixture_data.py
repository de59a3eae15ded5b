"""A stage that trains on a mixture of data sets: what is left out is said, and another mixture is other data."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from launched import with_settings
from training_world import mixed_samples

from vidtune.errors import UserError
from vidtune.recipe.files import dump_recipe, load_recipe
from vidtune.recipe.fingerprint import recipe_fingerprint
from vidtune.recipe.types import DataSource, Recipe
from vidtune.training.setup.data_contents import other_content, record_contents
from vidtune.training.setup.run_folder import _anywhere
from vidtune.training.setup.stage import set_up

GONE = {"json_path": "https://example.org/more.jsonl"}


def mixture(recipe: Recipe, folder: Path, *changes: dict[str, str], **settings: Any) -> Recipe:
    """The recipe over two sets, one of them of JSON lines, and further ones; ``folder`` holds all of it."""
    (source,) = recipe.stages[0].data
    if not (folder / "media").exists():
        shutil.copytree(str(source.media), folder / "media")
    (folder / "first.json").write_text(json.dumps(mixed_samples()))
    (folder / "second.jsonl").write_text("\n".join(map(json.dumps, reversed(mixed_samples()))))
    sets = [{"json_path": name, "data_root": "media"} for name in ("first.json", "second.jsonl")]
    sets = [{**one, **change} for one, change in zip(sets, [*changes, {}, {}], strict=False)] + list(changes[2:])
    (folder / "mix.yaml").write_text(yaml.safe_dump({"datasets": sets}))
    listed = DataSource(annotations=str(folder / "mix.yaml"), format="mixture", **settings)
    return with_settings(recipe, data=(listed,))


def test_sets_that_are_left_out_are_named_when_the_stage_begins(make_recipe: Any, tmp_path: Path) -> None:
    recipe = mixture(make_recipe(), tmp_path, {}, {"sampling_strategy": "end:50%"}, GONE, missing_sets="leave_out")
    setup = set_up(recipe, 0, out_folder(tmp_path))
    assert len(setup.data.table) == len(setup.plan.lengths) == 11 + 6
    assert setup.plan.lengths.tokens.min() > 0
    assert [Path(source.path).name for source in setup.plan.sources] == ["first.json", "second.jsonl"]
    (note,) = [note for note in setup.data.notes if "data sets" in note]
    assert note.startswith(f"{tmp_path}/mix.yaml lacks 1 of its 3 data sets, left out here (https://ex")
    refused = with_settings(recipe, data=(recipe.stages[0].data[0].model_copy(update={"missing_sets": None}),))
    with pytest.raises(UserError, match="lacks 1 of its 3 data sets"):
        set_up(refused, 0, out_folder(tmp_path))


def test_another_mixture_is_other_data_and_a_moved_one_is_not(make_recipe: Any, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    recipe, cache = mixture(make_recipe(), here), tmp_path / "tables"
    data = set_up(recipe, 0, out_folder(tmp_path)).data
    record_contents(tmp_path, recipe.stages[0], data.table)
    assert other_content(tmp_path, recipe.stages[0], cache) is None
    moved = mixture(make_recipe(), tmp_path, {"data_root": "pictures"}, roots={"pictures": str(here / "media")})
    assert other_content(tmp_path, moved.stages[0], cache) is None
    assert recipe_fingerprint(_anywhere(moved)) == recipe_fingerprint(_anywhere(recipe))
    assert load_recipe(write(tmp_path / "recipe.yaml", moved)) == moved
    faster = mixture(make_recipe(), here, {"frame_rate": 2.0})  # type: ignore[dict-item]
    assert other_content(tmp_path, faster.stages[0], cache) == str(here / "first.json")
    for changes in [
        ({"sampling_strategy": "first:3"},),
        ({"json_path": "second.jsonl"}, {"json_path": "first.json"}),
        ({}, {}, {"json_path": "first.json", "data_root": "media"}),
    ]:
        other = mixture(make_recipe(), here, *changes)
        assert other_content(tmp_path, other.stages[0], cache) is not None
        assert set_up(other, 0, out_folder(tmp_path)).plan.fingerprint != data.plan.fingerprint


def write(path: Path, recipe: Recipe) -> Path:
    path.write_text(dump_recipe(recipe))
    return path


def out_folder(folder: Path) -> Path:
    (folder / "out").mkdir(exist_ok=True)
    return folder / "out"
