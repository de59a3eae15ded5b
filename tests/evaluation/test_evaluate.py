"""`evaluate`: from a folder, or from a model in memory, to a score; the runs that a recipe plans."""

import json
from pathlib import Path

import pytest
import torch
from qa_sets import records, write_set, write_video
from tiny_checkpoint import write_checkpoint

from vidtune.checkpoints.load import load_checkpoint
from vidtune.errors import UserError
from vidtune.evaluation.checkpoint import AnsweringOptions, opened
from vidtune.evaluation.evaluate import _runs_of, evaluate, planned_runs
from vidtune.evaluation.predict import Variant
from vidtune.evaluation.runs.folder import RunFolder
from vidtune.recipe.types import BenchmarkEntry

ENTRIES = [("red", "what?", "x"), ("blue", "what?", "x"), ("red", "who?", "y")]
RECIPE = """\
system: video_llava
language_model: {model_type: llama}
benchmarks:
  - {name: world_qa, data: sets, limit: 3, without: [[video], [image]]}
  - world_events
generation: {max_new_tokens: 3}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_set(tmp_path_factory.mktemp("data") / "set", ENTRIES)
    write_video(folder / "videos" / "red.mp4", (200, 20, 20))
    write_video(folder / "videos" / "blue.mp4", (20, 20, 200))
    return folder


def ask(model, data, out, **options):
    rules = {"generation": {"max_new_tokens": 3}}
    quick = {"protocol": rules, "answering": AnsweringOptions(workers=0), "progress": False}
    return evaluate(model, "world_qa", data=data, out=out, **quick, **options)


def predictions(out) -> list[str]:
    return [line["pred"] for line in records(out / "world_qa" / "predictions.jsonl")]


def test_a_model_in_memory_is_scored_like_its_folder(folder, data, tmp_path):
    by_path, by_model = ask(folder, data, tmp_path / "path"), ask(load_checkpoint(folder), data, tmp_path / "model")
    assert predictions(tmp_path / "path") == predictions(tmp_path / "model")
    assert by_model.overall == by_path.overall and by_model.overall.scored == 3
    assert 0 <= by_model.accuracy <= 1 and "world_qa" in by_model._repr_html_()
    assert by_model.checkpoint.path == "in memory" and by_path.checkpoint.path == str(folder)


def test_a_model_in_memory_is_known_by_its_weights(folder, data, tmp_path):
    model = load_checkpoint(folder)
    score = ask(model, data, tmp_path)
    assert opened(load_checkpoint(folder)).identity == score.checkpoint
    assert ask(load_checkpoint(folder), data, tmp_path) == score
    assert len(records(tmp_path / "world_qa" / "sessions.jsonl")) == 2 and len(predictions(tmp_path)) == 3
    with torch.no_grad():
        next(iter(model.model.connectors.parameters())).add_(1e-3)
    with pytest.raises(UserError, match="holds the results of another run"):
        ask(model, data, tmp_path)


def test_options_reach_the_run(folder, data, tmp_path):
    score = ask(folder, data, tmp_path, blind=True, limit=2, judge="rules")
    run = RunFolder(tmp_path / "world_qa-blind")
    assert score.blind and score.judge == "rules-v1" and run.planned == 2
    assert score.reasons[0] == "only the first 2 of 3 questions of the test set (limit)"
    assert run.info.protocol.generation.max_new_tokens == 3


@pytest.fixture
def trained(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def test_a_recipe_plans_its_benchmarks_and_ablations(trained):
    asked = Variant(limit=2, overrides={"generation": {"seed": 1}})
    runs = planned_runs(trained, data=Path("given"), variant=asked)
    assert [(run.benchmark, tuple(run.variant.without)) for run in runs] == [
        ("world_qa", ()),
        ("world_qa", ("video",)),
        ("world_qa", ("image",)),
        ("world_events", ()),
    ]
    assert {run.variant.limit for run in runs} == {2} and {run.data for run in runs} == {Path("given")}
    assert all(run.variant.overrides == {"generation": {"max_new_tokens": 3, "seed": 1}} for run in runs)


def test_one_run_is_planned_where_something_is_switched_off(trained):
    runs = planned_runs(trained, data=Path("given"), variant=Variant(blind=True))
    assert [run.benchmark for run in runs] == ["world_qa", "world_events"] and all(run.variant.blind for run in runs)


def test_a_named_benchmark_that_the_recipe_does_not_list_keeps_its_own_protocol(trained):
    [run] = planned_runs(trained, ["msvd_qa"], Path("given"))
    assert (run.benchmark, run.variant) == ("msvd_qa", Variant())


def test_a_named_benchmark_of_the_recipe_is_run_as_the_recipe_says(trained):
    assert planned_runs(trained, ["world_qa"], Path("given")) == planned_runs(trained, data=Path("given"))[:3]
    [*_, other] = planned_runs(trained, ["world_qa", "msvd_qa"], Path("given"))
    assert (other.benchmark, other.variant) == ("msvd_qa", Variant())


def test_data_named_by_a_relative_path_are_found_from_any_folder(trained, tmp_path_factory, monkeypatch):
    project, away = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("away")
    (trained / "provenance.json").write_text(json.dumps({"folder": str(project)}))
    monkeypatch.chdir(away)
    for name, expected in [("nowhere", Path("sets")), ("project", project / "sets")]:
        if name == "project":
            (project / "sets").mkdir()
        assert planned_runs(trained, ["world_qa"])[0].data == expected, name
    (away / "sets").mkdir()
    with pytest.warns(UserWarning, match="sets: taken from .*project0/sets, where it was trained"):
        assert planned_runs(trained, ["world_qa"])[0].data == project / "sets"


def test_changed_rules_of_a_recipe_are_further_runs_in_folders_of_their_own():
    rules = ({"preprocessing": {"num_frames": 16}}, {"preprocessing": {"num_frames": 4}})
    entry = BenchmarkEntry(name="world_qa", data="sets", rules=rules)
    whole = Variant(overrides={"generation": {"seed": 3}, "preprocessing": {"blind": False}})
    runs = [run.variant for run in _runs_of(entry, None, whole)]
    assert [run.folder for run in runs] == ["", "preprocessing.num_frames=16", "preprocessing.num_frames=4"]
    assert runs[0].overrides == whole.overrides
    assert runs[1].overrides == {"generation": {"seed": 3}, "preprocessing": {"blind": False, "num_frames": 16}}
    assert len(_runs_of(entry, None, Variant(blind=True))) == 1


def test_a_benchmark_without_data_and_no_benchmark_at_all_are_named(trained, tmp_path_factory):
    with pytest.raises(UserError, match="benchmark world_events: give the folder"):
        planned_runs(trained)
    with pytest.raises(UserError, match="name a benchmark"):
        planned_runs(tmp_path_factory.mktemp("bare"))


def test_an_unknown_judge_is_refused_before_any_question_is_asked(folder, data, tmp_path):
    with pytest.raises(UserError, match="unknown judge 'ruels'"):
        ask(folder, data, tmp_path / "out", judge="ruels")
    assert not (tmp_path / "out").exists()
