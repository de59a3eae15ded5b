"""A run that asks as a harness does, and what each of its rules is worth against the own run: ``compare --why``."""

import json

import numpy as np
import pytest
from qa_sets import write_set, write_video
from tiny_checkpoint import write_checkpoint

from vidtune.cli.main import run as command
from vidtune.errors import UserError
from vidtune.evaluation.explaining.worth import Change, asked_in_both, changes_between, with_change
from vidtune.evaluation.runs.folder import RunFolder

ENTRIES = [("red", "what is it", "red"), ("blue", "what is it", "blue"), ("red", "is it red", "yes")]
QUICK = ["--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run A by the own rules, run B as lmms-eval asks, each of 3 questions on 2 videos; B's clips are too short."""
    folder = tmp_path_factory.mktemp("why")
    data = write_set(folder / "set", ENTRIES, videos="all_test")
    for name, colour in (("red", (200, 20, 20)), ("blue", (20, 20, 200))):
        (data / "all_test" / f"{name}.mp4").unlink()
        write_video(data / "all_test" / f"v_{name}.mp4", colour, frames=1)
    checkpoint = write_checkpoint(folder / "checkpoint")
    (checkpoint / "recipe.yaml").unlink()  # it has no stages and no benchmarks
    asked = ["evaluate", str(checkpoint), "--benchmark", "activitynet_qa", "--data", str(data), "--out", str(folder)]
    short = ["--protocol", "generation.max_new_tokens=3"]
    assert command([*asked, *short, *QUICK]) == 0
    harness = ["--protocol", "lmms-eval", "--protocol", "preprocessing.num_frames=2"]
    assert command([*asked, *harness, *short, *QUICK]) == 0
    return folder / "activitynet_qa", folder / "activitynet_qa-lmms-eval"


def test_each_rule_is_worth_something_alone_and_the_command_goes_on_where_it_was(runs, capsys):
    asked = ["compare", "--why", *map(str, runs), "--limit", "2", "--json", *QUICK]
    capsys.readouterr()
    assert command(asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["rule"] for one in found} == {
        "prompt_format",
        "question_template",
        "wording",
        "preprocessing.interpolation",
        "preprocessing.antialias",
        "preprocessing.order",
        "preprocessing.short_clips",
        "towers.video.temporal_attention",
        "towers.video.hidden_act",
        "all of them",
    }
    assert found[-1]["rule"] == "all of them" and not any(one["problem"] for one in found)
    assert all(one["comparison"]["questions"] == 2 for one in found)
    places = sorted((runs[0].parent / "why" / "activitynet_qa" / "first-2").iterdir())
    assert len(places) == len(found) - 1
    turned = next(RunFolder(place) for place in places if place.name.startswith("question_template"))
    own = RunFolder(runs[0]).info.protocol
    assert turned.info.protocol.model_dump() == {**own.model_dump(), "question_template": "{media}{question}?"}
    times = [(place / "predictions.jsonl").stat().st_mtime_ns for place in places]
    assert command([one for one in asked if one != "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 'question_template: "{media}\\n{question}" -> "{media}{question}?"' in lines
    assert any(line.startswith("  accuracy: ") and "(one by one: " in line for line in lines)
    assert times == [(place / "predictions.jsonl").stat().st_mtime_ns for place in places]


def test_features_are_read_where_the_other_run_read_them(runs, tmp_path, capsys):
    for number, name in enumerate(("v_red", "v_blue")):
        np.save(tmp_path / f"{name}.npy", np.full((10, 16), number, dtype=np.float32))
    info = RunFolder(runs[0]).info
    asked = ["evaluate", info.checkpoint.path, "--benchmark", "activitynet_qa", "--data", info.data.folder]
    asked += ["--features", f"video={tmp_path}", "--protocol", "generation.max_new_tokens=3"]
    assert command([*asked, "--out", str(tmp_path / "out"), *QUICK]) == 0
    capsys.readouterr()
    other = tmp_path / "out" / "activitynet_qa"
    where = ["--out", str(tmp_path / "why"), "--json", *QUICK]
    assert command(["compare", "--why", str(runs[0]), str(other), *where]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["rule"], one["problem"]) for one in found] == [("features", None), ("all of them", None)]
    [again] = (tmp_path / "why" / "first-3").iterdir()
    assert RunFolder(again).info.data == RunFolder(other).info.data
    assert [one.pred for one in RunFolder(again).predictions()] == [one.pred for one in RunFolder(other).predictions()]


def test_what_cannot_be_told_apart_is_refused(runs, capsys):
    infos = [RunFolder(path).info for path in runs]
    with pytest.raises(UserError, match="no rule differs"):
        changes_between(infos[0], infos[0])
    other = infos[1].model_copy(update={"checkpoint": infos[1].checkpoint.model_copy(update={"fingerprint": "x"})})
    with pytest.raises(UserError, match="different checkpoints"):
        changes_between(infos[0], other)
    with pytest.raises(UserError, match=r"generation\.max_new_tokens"):
        with_change(infos[0].protocol, Change("generation.max_new_tokens", 3, 0))
    assert command(["compare", "--why", str(runs[0])]) == 2
    assert "takes two run folders" in capsys.readouterr().err


def test_only_questions_that_both_runs_were_asked_are_asked_again(runs):
    assert asked_in_both(*runs, 200) == len(ENTRIES) and asked_in_both(*runs, 2) == 2


def test_what_follows_from_a_rule_is_no_rule(runs):
    info = RunFolder(runs[0]).info
    told = {"reading": {"frames": 4}, "untrained_length": "4 frames where the model was trained with 2"}
    other = info.model_copy(update={"protocol": info.protocol.with_overrides(told, "test")})
    assert [one.name for one in changes_between(info, other)] == ["reading.frames"]


def test_a_rule_is_taken_away_with_what_would_hold_nothing_without_it(runs):
    own = RunFolder(runs[0]).info.protocol
    read = with_change(own, Change("reading.frames", None, 4))
    assert read.reading is not None and read.reading.frames == 4
    assert with_change(read, Change("reading.frames", 4, None)) == own
