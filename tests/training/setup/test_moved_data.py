"""A folder belongs to a run as soon as something was trained in it; the run goes on wherever its data lie, if they are
the same."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launched import with_settings
from PIL import Image
from safetensors.torch import load_file
from training_world import mixed_samples

from vidtune.errors import UserError
from vidtune.recipe.files import load_recipe
from vidtune.recipe.types import Distillation, Recipe
from vidtune.training.run import train_stages
from vidtune.training.setup.data_contents import places_of_claim, record_places
from vidtune.training.setup.run_folder import EXCLUSIONS, check_recipe
from vidtune.training.signals import TrainingInterrupted


def run(recipe: Recipe, out: Path, stop_after: int | None = None) -> dict[str, Any]:
    return load_file(train_stages(recipe, out, stop_after=stop_after, progress=False) / "model.safetensors")


def copied(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe over a copy of its data in another folder; the copies are of another time."""
    (source,) = recipe.stages[0].data
    shutil.copytree(str(source.media), folder / "media", copy_function=shutil.copyfile)
    annotations = shutil.copyfile(source.annotations, folder / "moved.json")
    annotations = annotations.rename(folder / Path(source.annotations).name)
    return with_settings(
        recipe, data=(source.model_copy(update={"annotations": str(annotations), "media": str(folder / "media")}),)
    )


@pytest.fixture(scope="module")
def stopped(make_recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path, dict[str, Any]]:
    """A recipe, the folder of its run, stopped after a step, and its weights if it is not stopped."""
    folder, recipe = tmp_path_factory.mktemp("runs"), make_recipe(workers=0, max_steps=2)
    whole = run(recipe, folder / "whole")
    with pytest.raises(TrainingInterrupted):
        run(recipe, folder / "out", stop_after=1)
    return recipe, folder / "out", whole


def test_a_run_goes_on_with_data_that_were_moved(stopped: tuple[Any, ...], tmp_path: Path) -> None:
    recipe, out, whole = stopped
    shutil.copytree(out, tmp_path / "out")
    moved = copied(recipe, tmp_path)
    found = run(moved, tmp_path / "out")
    assert found.keys() == whole.keys() and all((found[name] == whole[name]).all() for name in whole)
    # The stage is finished now; data that are moved once more do not begin it again, and other data are refused.
    (tmp_path / "more").mkdir()
    again = copied(moved, tmp_path / "more")
    assert run(again, tmp_path / "out").keys() == whole.keys()


def spoil_annotations(folder: Path) -> str:
    path = next(folder.glob("*.json"))
    path.write_text(json.dumps([*json.loads(path.read_text()), mixed_samples()[0]]))
    return path.name


def spoil_media(folder: Path) -> str:
    Image.fromarray(np.full((20, 30, 3), 77, np.uint8)).save(folder / "media/red.png")
    return "media"


@pytest.mark.parametrize("spoil", [spoil_annotations, spoil_media])
@pytest.mark.parametrize("finished", [True, False])
def test_data_that_were_changed_on_the_way_are_refused(
    spoil: Any, finished: bool, stopped: tuple[Any, ...], tmp_path: Path
) -> None:
    recipe, out, _ = stopped
    out = out.with_name("whole") if finished else out
    moved = copied(recipe, tmp_path)
    named = spoil(tmp_path)
    before = (out / "recipe.yaml").read_text()
    with pytest.raises(UserError, match=rf"holds a run on other data: \S*{named} has other content .* 'align' was"):
        run(moved, out)
    assert (out / "recipe.yaml").read_text() == before


def test_a_run_of_an_earlier_version_knows_its_data_by_their_places(stopped: tuple[Any, ...], tmp_path: Path) -> None:
    recipe, out, _ = stopped
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "out/align/data.json").unlink()
    with pytest.raises(UserError, match=r"another recipe: stages\.align\.data was"):
        run(copied(recipe, tmp_path), tmp_path / "out")
    run(recipe, tmp_path / "out")


def test_parts_move_with_the_data_if_they_hold_the_same(stopped: tuple[Any, ...], tmp_path: Path) -> None:
    recipe, _, _ = stopped
    own_tokenizer = shutil.copytree(str(recipe.tokenizer), tmp_path / "tokenizer")
    recipe = recipe.model_copy(update={"tokenizer": str(own_tokenizer)})
    with pytest.raises(TrainingInterrupted):
        run(recipe, tmp_path / "out", stop_after=1)
    moved = recipe.model_copy(update={"tokenizer": str(shutil.copytree(own_tokenizer, tmp_path / "moved"))})
    for _ in range(2):  # it goes on, and is looked at when it is finished
        run(moved, tmp_path / "out")
    (tmp_path / "moved/tokenizer_config.json").write_text("{}")
    elsewhere = recipe.model_copy(update={"tokenizer": str((tmp_path / "moved").rename(tmp_path / "other"))})
    with pytest.raises(UserError, match=r"another tokenizer: the content of \S*other differs from that of \S*moved"):
        check_recipe(tmp_path / "out", elsewhere)
    (tmp_path / "out/places.json").unlink()  # a run of an earlier version
    with pytest.raises(UserError, match="another recipe: tokenizer was"):
        check_recipe(tmp_path / "out", recipe)


def test_every_place_of_a_recipe_is_told_by_its_content(tmp_path: Path) -> None:
    for name in "abcdefg":
        (tmp_path / "old" / name).mkdir(parents=True)
        (tmp_path / "old" / name / "x").write_text(name)
    recipe = load_recipe("video_llava_tiny", expand=False)

    def placed(root: str) -> Recipe:
        at = {name: str(tmp_path / root / name) for name in "abcdefg"}
        stage = recipe.stages[0].model_copy(update={"from_": at["g"]})
        parts = {"language_model": at["a"], "tokenizer": at["b"], "towers": {"video": at["c"]}, "checkpoint": at["d"]}
        teacher = {"video": Distillation(teacher=at["f"])}
        more = {"lora_runs": (at["e"],), "distillation": teacher, "stages": (stage,)}
        return recipe.model_copy(update={**parts, **more, "connectors": {}})

    record_places(tmp_path, placed("old"))
    assert len(json.loads((tmp_path / "places.json").read_text())) == 7
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    assert places_of_claim(tmp_path, placed("old"), placed("new")).stages[0].from_ == placed("old").stages[0].from_
    for name in "abcdefg":
        (tmp_path / "new" / name / "x").write_text("other")
        with pytest.raises(UserError, match=f"the content of .*new/{name} differs"):
            places_of_claim(tmp_path, placed("old"), placed("new"))
        (tmp_path / "new" / name / "x").write_text(name)


def test_a_failed_start_leaves_the_folder_to_other_recipes(make_recipe: Any, tmp_path: Path) -> None:
    recipe = make_recipe(workers=0, max_steps=1)
    broken = tmp_path / "train.json"
    broken.write_text("[{")
    (source,) = recipe.stages[0].data
    failing = with_settings(recipe, data=(source.model_copy(update={"annotations": str(broken)}),), max_steps=3)
    with pytest.raises(UserError, match=r"train\.json"):
        run(failing, tmp_path / "out")
    checked = {"id": "train:1", "source": "x", "reason": "by hand", "detail": "y"}
    seen = {"id": "train:0", "index": 0, "step": 0, "path": None, "reason": "of the failed start"}
    (tmp_path / "out/align" / EXCLUSIONS).write_text("".join(json.dumps(line) + "\n" for line in (checked, seen)))
    run(recipe.model_copy(update={"seed": 1}), tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out/align" / EXCLUSIONS).read_text().splitlines()]
    assert lines == [checked]
    with pytest.raises(UserError, match="another recipe: seed was 1 and is 42"):
        run(recipe, tmp_path / "out")
