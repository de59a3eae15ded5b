"""A stage's data: opened once, unusable samples named, limits checked, costs from the model's sizes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_world import conversation, mixed_samples

from vidtune.data.problems import SampleProblem
from vidtune.errors import UserError
from vidtune.models.build import build_config
from vidtune.recipe import Recipe
from vidtune.training.exclusions import ExclusionList
from vidtune.training.stage import EXCLUSIONS, set_up
from vidtune.training.stage_data import cost_model

OUTSIDE = conversation("<video>\nWhat?", "x", video="../../etc/passwd")


def unusable_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "align" / EXCLUSIONS).read_text().splitlines()]


def test_unusable_annotations_never_enter_the_plan_and_are_recorded_once(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe([OUTSIDE, *mixed_samples(), OUTSIDE])
    first, second = set_up(recipe, 0, tmp_path), set_up(recipe, 0, tmp_path)
    for setup in (first, second):
        assert len(setup.data.table) == len(setup.plan.lengths) == len(mixed_samples())
        assert setup.plan.lengths.tokens.min() > 0
        assert setup.data.table.id(0) == "train:1"
    assert first.plan.fingerprint == second.plan.fingerprint
    lines = unusable_lines(tmp_path)
    assert [line["id"] for line in lines] == ["train:0", "train:12"]
    assert lines[0]["reason"] == "unsafe path" and "step" not in lines[0]


def test_a_process_that_does_not_write_leaves_them_out_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / EXCLUSIONS
    exclusions = ExclusionList(path, writes=False)
    exclusions.add_unusable([(SampleProblem("bad", "is bad", "train:3"), Path("train.json"))])
    assert exclusions.checked_ids == {"train:3"}
    assert not path.exists()


def test_mostly_unusable_annotations_stop_before_training(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe([*mixed_samples(), *[OUTSIDE] * 12])
    with pytest.raises(UserError, match=r"stage 'align': 12 of 23 samples cannot be used.*sample train:11: .*passwd"):
        set_up(recipe, 0, tmp_path)


def test_the_longest_sample_is_named_when_no_pack_can_hold_it(make_recipe, tmp_path: Path) -> None:
    samples = [*mixed_samples(), conversation("Say much.", "word " * 40), conversation("Say it all.", "word " * 90)]
    recipe = make_recipe(samples, max_tokens_per_batch=90)
    with pytest.raises(UserError, match=r"stage 'align': sample train:12 has (\d+) tokens .* at least \1"):
        set_up(recipe, 0, tmp_path)


def test_other_tokens_of_the_same_data_are_another_identity(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe()
    stage = recipe.stages[0].model_copy(update={"max_length": 40})
    shorter = recipe.model_copy(update={"stages": (stage,)})
    one, other = set_up(recipe, 0, tmp_path), set_up(shorter, 0, tmp_path)
    assert other.plan.lengths.tokens.max() < one.plan.lengths.tokens.max()
    assert one.plan.identity()["files"] == other.plan.identity()["files"]
    assert one.plan.identity()["lengths"] != other.plan.identity()["lengths"]


def test_costs_follow_the_sizes_of_tower_and_language_model(make_recipe) -> None:
    config = build_config(make_recipe())
    cost = cost_model(config)
    text = config.text_config
    per_layer = 4 * text.hidden_size**2 + 3 * text.hidden_size * text.intermediate_size + 2 * text.hidden_size
    weights = text.num_hidden_layers * per_layer + text.hidden_size
    assert cost.squared == pytest.approx(text.num_hidden_layers * text.hidden_size / weights)
    for stream, patches in (("image", 4), ("video", 4 * 5)):
        tower = sum(np.prod(p.shape) for p in config.tower(stream).build().parameters())
        assert cost.items[stream] == pytest.approx(tower / weights / 3 * patches)


def test_a_weight_that_takes_nothing_and_a_sample_without_words_are_refused(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe([*mixed_samples(), conversation("", "")])

    def changed(**changes: Any) -> Recipe:
        return recipe.model_copy(update={"stages": (recipe.stages[0].model_copy(update=changes),)})

    light = recipe.stages[0].data[0].model_copy(update={"weight": 0.01})
    with pytest.raises(UserError, match=r"train.json: weight 0.01 takes none of its 12 samples"):
        set_up(changed(data=(light,)), 0, tmp_path)
    with pytest.raises(UserError, match=r"stage 'align': sample train:11 has no words"):
        set_up(changed(order="modality_grouped"), 0, tmp_path)
