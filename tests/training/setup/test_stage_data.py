"""A stage's data: opened once, unusable samples named, limits checked, costs from the model's sizes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launched import with_settings
from training_world import conversation, mixed_samples

from vidtune.checkpoints.build import build_config
from vidtune.data.problems import SampleProblem
from vidtune.data.tables import AnnotationTable
from vidtune.errors import UserError
from vidtune.recipe.types import DataSource, Recipe
from vidtune.training.setup.checks import check_stages
from vidtune.training.setup.data_contents import other_content, record_contents
from vidtune.training.setup.exclusions import ExclusionList
from vidtune.training.setup.run_folder import EXCLUSIONS
from vidtune.training.setup.stage import set_up
from vidtune.training.setup.stage_data import cost_model

OUTSIDE = conversation("<video>\nWhat?", "x", video="../../etc/passwd")


def unusable_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "align" / EXCLUSIONS).read_text().splitlines()]


def opened_table(recipe: Recipe, folder: Path) -> AnnotationTable:
    return AnnotationTable.open(recipe.stages[0].data, folder / "tables")


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


def test_a_process_that_does_not_write_leaves_them_out_all_the_same(make_recipe, tmp_path: Path) -> None:
    path = tmp_path / EXCLUSIONS
    exclusions, table = ExclusionList(path, writes=False), opened_table(make_recipe(), tmp_path)
    exclusions.add_unusable([(SampleProblem("bad", "is bad", "train:3"), table.media_versions(3))], table)
    assert exclusions.checked_ids(table) == {"train:3"}
    assert not path.exists()


def test_a_folder_of_annotations_is_all_its_files_in_order(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe()
    source = recipe.stages[0].data[0]
    whole = json.loads(Path(source.annotations).read_text())
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, part in (("b", whole[5:]), ("a", whole[:5])):
        (folder / f"{name}.json").write_text(json.dumps(part))
    (folder / "readme.txt").touch()
    of_folder = with_settings(recipe, data=(source.model_copy(update={"annotations": str(folder), "weight": 2.0}),))
    check_stages(of_folder)
    setup = set_up(of_folder, 0, tmp_path)
    assert [setup.data.table.id(index) for index in (0, 4, 5)] == ["a:0", "a:4", "b:0"]
    assert [(Path(found.path).name, found.weight) for found in setup.plan.sources] == [("a.json", 2), ("b.json", 2)]
    record_contents(tmp_path, of_folder.stages[0], setup.data.table)
    moved = of_folder.stages[0].data[0].model_copy(update={"annotations": str(folder.rename(tmp_path / "moved"))})
    stage = of_folder.stages[0].model_copy(update={"data": (moved,)})
    assert other_content(tmp_path, stage, tmp_path / "tables") is None
    (tmp_path / "moved/c.json").write_text("[]")
    assert other_content(tmp_path, stage, tmp_path / "tables") == str(tmp_path / "moved")
    (tmp_path / "empty").mkdir()
    nothing = source.model_copy(update={"annotations": str(tmp_path / "empty")})
    with pytest.raises(UserError, match=r"empty: a folder of annotations needs files \*\.json"):
        check_stages(with_settings(recipe, data=(nothing,)))


def test_mostly_unusable_annotations_stop_before_training(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe([*mixed_samples(), *[OUTSIDE] * 12])
    with pytest.raises(UserError, match=r"stage 'align': 12 of 23 samples cannot be used.*sample train:11: .*passwd"):
        set_up(recipe, 0, tmp_path)


def test_how_many_may_be_left_out_is_the_stages_to_say(make_recipe, tmp_path: Path) -> None:
    def usable(bad: int, share: float) -> int:
        out = tmp_path / f"{bad} {share}"
        out.mkdir()
        return len(set_up(make_recipe([*mixed_samples(), *[OUTSIDE] * bad], max_excluded=share), 0, out).data.table)

    assert usable(10, 0) == usable(12, 0.53) == len(mixed_samples())
    with pytest.raises(UserError, match=r"12 of 23 samples .*\(unsafe path: 12\), more than max_excluded \(0.5\)"):
        usable(12, 0.5)


def test_samples_that_were_recorded_before_count_too(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe([*mixed_samples(), *[OUTSIDE] * 6])
    (tmp_path / "align").mkdir()
    lines = [json.dumps({"id": f"train:{number}", "reason": "missing file"}) for number in range(5)]
    (tmp_path / "align" / EXCLUSIONS).write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"11 of 17 samples cannot be used \(unsafe path: 6, recorded in .*: 5\)"):
        set_up(recipe, 0, tmp_path)


def test_samples_without_features_are_recorded_and_never_enter_the_plan(make_recipe, tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    samples = [conversation("<video>\nWhat moves?", "a box.", id=name) for name in ("a", "b", "c")]
    source = {"annotations": str(tmp_path / "stored.json"), "features": {"video": str(tmp_path / "clip")}}
    Path(source["annotations"]).write_text(json.dumps(samples))
    recipe = make_recipe(data=[source])
    config = build_config(recipe)
    tower = config.tower("video")
    shape = (tower.num_tokens(tower.input_shape()), tower.hidden_size)
    for name in ("a", "c"):
        np.save(tmp_path / f"clip/{name}.npy", np.zeros(shape, np.float16))
    np.save(tmp_path / "clip/c.npy", np.zeros((shape[0], shape[1] + 1), np.float16))
    setup = set_up(recipe, 0, tmp_path)
    assert [setup.data.table.id(k) for k in range(len(setup.data.table))] == ["stored:0"]
    assert setup.example(0, 0).media[0].encoded
    assert [(line["id"], line["reason"]) for line in unusable_lines(tmp_path)] == [
        ("stored:1", "features missing"), ("stored:2", "features of another tower")
    ]  # fmt: skip


def test_features_need_a_folder_and_a_stream(make_recipe, tmp_path: Path) -> None:
    def recipe(**features: Path) -> Recipe:
        found = make_recipe()
        source = found.stages[0].data[0].model_copy(update={"features": {k: str(v) for k, v in features.items()}})
        return found.model_copy(update={"stages": (found.stages[0].model_copy(update={"data": (source,)}),)})

    with pytest.raises(UserError, match=r"stage 'align': the folder of video features .*nowhere does not exist"):
        check_stages(recipe(video=tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"stage 'align': .*train.json: no stream 'vide' .*did you mean 'video'"):
        set_up(recipe(vide=tmp_path), 0, tmp_path)


def test_the_longest_sample_is_named_when_no_pack_can_hold_it(make_recipe, tmp_path: Path) -> None:
    samples = [*mixed_samples(), conversation("Say much.", "word " * 40), conversation("Say it all.", "word " * 90)]
    recipe = make_recipe(samples, max_tokens_per_batch=90)
    with pytest.raises(UserError, match=r"stage 'align': sample train:12 has (\d+) tokens .* at least \1"):
        set_up(recipe, 0, tmp_path)


def test_other_tokens_of_the_same_data_are_another_identity(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe()
    stage = recipe.stages[0].model_copy(update={"max_length": 62})
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


def test_a_run_of_an_earlier_version_keeps_its_order(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe()
    annotations = Path(recipe.stages[0].data[0].annotations)
    annotations.write_text(json.dumps(json.loads(annotations.read_text()), indent=3))
    (new, old) = (tmp_path / name for name in ("new", "old"))
    for out in (new, old):
        out.mkdir()
    first = set_up(recipe, 0, new)
    about = first.data.table.files[0].about
    record = json.loads((new / "align/data.json").read_text())
    assert record[0]["annotations"] == about.content != about.file
    (old / "align").mkdir()
    (old / "align/data.json").write_text(json.dumps([{**record[0], "annotations": about.file}]))
    kept = set_up(recipe, 0, old)
    assert kept.plan.sources[0].content == about.file
    assert other_content(old / "align", recipe.stages[0], tmp_path / "tables") is None


def test_a_file_without_a_usable_sample_is_refused_though_others_have_some(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe()
    (tmp_path / "bad.csv").write_text("question,answer\nWhat?,\n,x\n")
    data = (*recipe.stages[0].data, DataSource(annotations=str(tmp_path / "bad.csv")))
    with pytest.raises(UserError, match=r"bad\.csv: none of its 2 samples .* line 2: has 'question', but no answer"):
        set_up(with_settings(recipe, data=data), 0, tmp_path)
