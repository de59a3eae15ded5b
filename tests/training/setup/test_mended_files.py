"""Files that fail, are mended or are replaced: what is remembered of them is about the file that it was found in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_world import conversation, mixed_samples

from vidtune.checkpoints.build import build_config
from vidtune.data.problems import SampleProblem
from vidtune.data.tables import AnnotationTable
from vidtune.errors import MediaError, UnreadMediaError
from vidtune.media.file_version import version_of
from vidtune.media.kept.identity import content_hash
from vidtune.recipe.types import Recipe
from vidtune.training.setup.exclusions import FOREVER, Excluded, ExclusionList, failure_of
from vidtune.training.setup.run_folder import EXCLUSIONS
from vidtune.training.setup.stage import StageSetup, set_up


def samples_of(setup: StageSetup) -> list[str]:
    return [setup.data.table.id(number) for number in range(len(setup.data.table))]


@pytest.fixture
def stored(make_recipe: Any, tmp_path: Path) -> tuple[Recipe, Path]:
    """A recipe of the features of two videos, and their folder."""
    folder, annotations = tmp_path / "clip", tmp_path / "stored.json"
    folder.mkdir()
    samples = [conversation("<video>\nWhat moves?", "a box.", id=name) for name in ("a", "b")]
    annotations.write_text(json.dumps(samples))
    recipe = make_recipe(data=[{"annotations": str(annotations), "features": {"video": str(folder)}}])
    tower = build_config(recipe).tower("video")
    right = np.zeros((tower.num_tokens(tower.input_shape()), tower.hidden_size), np.float16)
    for name in ("a", "b"):
        np.save(folder / f"{name}.npy", right)
    return recipe, folder


@pytest.mark.parametrize("fault", ["half copied", "missing"])
def test_a_mended_file_comes_back_by_itself_until_the_stage_has_begun(
    fault: str, stored: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe, folder = stored
    whole, broken = (folder / "b.npy").read_bytes(), folder / "b.npy"
    if fault == "missing":
        broken.unlink()
    else:
        broken.write_bytes(whole[:-100])  # the listing of the folder will not change
    setup = set_up(recipe, 0, tmp_path)
    assert samples_of(setup) == ["stored:0"]
    path = tmp_path / "align" / EXCLUSIONS
    assert f"1 of 2 samples are left out; {path} lists them" in setup.data.notes

    def left_out(has_begun: bool) -> set[str]:
        table = AnnotationTable.open(recipe.stages[0].data, tmp_path / "tables")
        return ExclusionList(path, has_begun=has_begun).checked_ids(table)

    assert left_out(False) == left_out(True) == {"stored:1"}
    broken.write_bytes(whole)
    assert left_out(True) == {"stored:1"}  # as a run that goes on needs it
    assert left_out(False) == set() and samples_of(set_up(recipe, 0, tmp_path)) == ["stored:0", "stored:1"]


def test_a_list_is_not_about_other_annotations_of_the_same_name(make_recipe: Any, tmp_path: Path) -> None:
    def list_of(recipe: Recipe) -> tuple[ExclusionList, AnnotationTable]:
        table = AnnotationTable.open(recipe.stages[0].data, tmp_path / "tables")
        return ExclusionList(tmp_path / EXCLUSIONS), table

    one, other = make_recipe(), make_recipe([*mixed_samples(), *mixed_samples()])
    exclusions, table = list_of(one)
    exclusions.add_unusable([(SampleProblem("bad", "is bad", "train:3"), table.media_versions(3))], table)
    for recipe, expected in ((one, {"train:3"}), (other, set())):
        exclusions, table = list_of(recipe)
        assert exclusions.checked_ids(table) == expected
    (tmp_path / EXCLUSIONS).write_text('{"id": "train:3", "reason": "of an earlier version"}\n')
    exclusions, table = list_of(other)
    assert exclusions.checked_ids(table) == {"train:3"}


def test_a_failed_file_is_tried_again_after_it_was_replaced_and_only_then(tmp_path: Path) -> None:
    path, media = tmp_path / EXCLUSIONS, tmp_path / "a.mp4"
    media.write_bytes(b"half")
    first = Excluded("train:1", 1, 4, str(media), "cut off", file=version_of(str(media)))
    again = Excluded("train:2", 2, 6, str(media), "failed in step 4 and is not tried again")
    ExclusionList(path).add([first, again])
    left_out = {str(media): (range(5, FOREVER),)}
    assert ExclusionList(path).failed_files() == left_out
    media.write_bytes(b"whole")
    resumed = ExclusionList(path)
    assert resumed.failed_files() == {}
    resumed.add([Excluded("train:3", 3, 9, str(media), "still bad", file=version_of(str(media)))])
    assert resumed.failed_files() == ExclusionList(path).failed_files() == left_out
    assert {entry.step for entry in resumed.entries} == {4, 6, 9}


def test_a_bad_file_is_known_by_its_content_and_one_that_was_not_read_is_left_out_of_its_epoch(tmp_path: Path) -> None:
    path, bad, slow = tmp_path / EXCLUSIONS, tmp_path / "bad.mp4", tmp_path / "slow.mp4"
    for media in (bad, slow):
        media.write_bytes(b"half")
    causes = {bad: MediaError(str(bad), "is damaged"), slow: UnreadMediaError(str(slow), "was not read within 1 s")}
    told = {media: failure_of(error, str(media), 10) for media, error in causes.items()}
    assert told == {
        bad: {"cause": "bad file", "content": content_hash(str(bad))},
        slow: {"cause": "not read then", "again": 10},
    }
    entries = [
        Excluded(f"train:{n}", n, 4, str(media), str(causes[media]), file=version_of(str(media)), **told[media])
        for n, media in enumerate(causes)
    ]
    ExclusionList(path).add(entries)
    left_out = {str(bad): (range(5, FOREVER),), str(slow): (range(5, 10),)}
    assert ExclusionList(path).failed_files() == left_out
    bad.unlink()
    bad.write_bytes(b"half")  # a copy
    assert ExclusionList(path).failed_files() == left_out
    bad.write_bytes(b"full")
    assert ExclusionList(path).failed_files() == {str(slow): (range(5, 10),)}


def test_a_file_that_is_replaced_during_the_run_costs_its_samples(stored: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, _ = stored
    setup = set_up(recipe, 0, tmp_path)
    tokens = len(setup.example(0, 0))
    object.__setattr__(setup.plan.lengths, "tokens", setup.plan.lengths.tokens + np.array([0, 32], np.int32))
    assert len(setup.example(0, 0)) == tokens
    with pytest.raises(SampleProblem, match=rf"stored:1: has {tokens} tokens, but {tokens + 32} when the run started"):
        setup.example(1, 0)


def test_what_was_left_out_of_steps_is_not_about_other_annotations(make_recipe: Any, tmp_path: Path) -> None:
    recipe = make_recipe()
    first = set_up(recipe, 0, tmp_path)
    first.exclusions.add([Excluded("train:1", 1, 0, None, "bad")])
    assert [entry.index for entry in set_up(recipe, 0, tmp_path).exclusions.entries] == [1]
    annotations = Path(recipe.stages[0].data[0].annotations)
    annotations.write_text(json.dumps(json.loads(annotations.read_text())[1:]))  # the bad sample is gone
    again = set_up(recipe, 0, tmp_path).exclusions
    assert again.entries == []
    assert len(again.add([Excluded("train:1", 1, 0, None, "another sample")])) == 1
