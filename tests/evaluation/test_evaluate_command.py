"""``vidtune evaluate`` on a benchmark that metrics score: streams off, stored features, ablations of a recipe."""

import json
import sys
from unittest.mock import Mock

import numpy as np
import pytest
from event_sets import write_events
from qa_sets import records, write_set, write_video
from tiny_checkpoint import write_checkpoint

import vidtune.cli.evaluate  # noqa: F401 - its attributes are replaced
from vidtune.cli.main import run
from vidtune.cli.options.asking import ModelOptions
from vidtune.errors import UserError
from vidtune.evaluation.evaluate import PlannedRun

SHORT = ["--protocol", "generation.max_new_tokens=3", "--workers", "0", "--device", "cpu"]
RECIPE = """\
system: video_llava
language_model: {{model_type: llama}}
benchmarks:
  - {{name: world_events, data: "{data}", without: [[video]]}}
generation: {{max_new_tokens: 3}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    annotated = {"duration": 1.0, "timestamps": [[0, 0.5]], "sentences": ["A thing moves."]}
    folder = write_events(tmp_path_factory.mktemp("events"), {"red": annotated, "gone": annotated}, missing=["gone"])
    write_video(folder / "videos" / "red.mp4", (200, 20, 20))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, data):
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    (folder / "recipe.yaml").write_text(RECIPE.format(data=data))
    return folder


def test_a_recipe_s_ablations_are_runs_beside_the_whole_one(checkpoint, tmp_path, capsys):
    assert run(["evaluate", str(checkpoint), "--out", str(tmp_path), "--workers", "0", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["world_events", "world_events-without-video"]
    assert "world_events: metrics in %" in shown and "world_events, without video: metrics in %" in shown
    assert "grounding: 1 of 2 answered, 2 videos; 1 without file" in shown and "mIoU" in shown
    page = tmp_path / "report.html"
    assert run(["report", *map(str, sorted(tmp_path.iterdir())), "--out", str(page)]) == 0
    assert "world_events − world_events-without-video" in page.read_text()


def test_one_run_is_asked_for_by_what_it_goes_without(checkpoint, data, tmp_path, capsys):
    name = ["--benchmark", "world_events", "--data", str(data)]
    assert run(["evaluate", str(checkpoint), *name, "--out", str(tmp_path), "--without", "video", *SHORT]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["world_events-without-video"]
    message = refusal(capsys, checkpoint, [*name, "--without", "adio", *SHORT], tmp_path)
    assert "no stream 'adio'" in message


@pytest.mark.parametrize(
    ("options", "foreign", "decoded", "starts"),
    [
        ([], False, True, False),
        ([], False, False, True),
        (["--transformers"], False, True, True),
        ([], True, True, True),
    ],
)
def test_only_a_model_of_vidtune_finds_decoded_files_and_needs_no_worker_process(
    checkpoint, data, tmp_path, monkeypatch, capsys, options, foreign, decoded, starts
):
    prepared: list[str] = []
    monkeypatch.setattr(sys.modules["vidtune.cli.evaluate"], "prepare", prepared.append)
    monkeypatch.setattr(PlannedRun, "is_decoded", lambda self: decoded)
    monkeypatch.setattr(ModelOptions, "open", Mock(side_effect=UserError("enough")))
    monkeypatch.setattr("vidtune.evaluation.models.opening.is_of_transformers", lambda folder: foreign)
    name = ["--benchmark", "world_events", "--data", str(data), "--workers", "1"]
    assert "enough" in refusal(capsys, checkpoint, [*name, *options], tmp_path)
    assert prepared == (["vidtune.media.worker"] if starts else [])


def refusal(capsys, checkpoint, arguments, out):
    capsys.readouterr()
    assert run(["evaluate", str(checkpoint), "--out", str(out / "refused"), *arguments]) == 2
    assert not (out / "refused").exists()
    return capsys.readouterr().err


def test_stored_features_are_read_from_the_folders_given(checkpoint, data, tmp_path, capsys):
    folder = tmp_path / "visual"
    folder.mkdir()
    width = json.loads((checkpoint / "processor_config.json").read_text())["streams"]["video"]["feature_size"]
    tokens = json.loads((checkpoint / "processor_config.json").read_text())["streams"]["video"]["num_tokens"]
    np.save(folder / "gone.npy", np.zeros((tokens, width), np.float16))
    name = ["--benchmark", "world_events", "--data", str(data), *SHORT]
    out = tmp_path / "out"
    assert run(["evaluate", str(checkpoint), *name, "--out", str(out), "--features", f"video={folder}"]) == 0
    asked = records(out / "world_events" / "predictions.jsonl")
    assert {line["video"] for line in asked} == {"gone"} and not any("error" in line for line in asked)
    assert {line["video"] for line in records(out / "world_events" / "missing.jsonl")} == {"red"}
    for wrong, message in [
        (["--features", "video"], "write --features NAME=VALUE"),
        (["--features", f"video={folder}", "--features", "video=x"], "--features video: given twice"),
        (["--features", f"video={tmp_path / 'none'}"], "none is no folder"),
        (["--features", f"video={folder}", "--blind"], "switch the streams off: --without video"),
    ]:
        assert message in refusal(capsys, checkpoint, [*name, *wrong], tmp_path)


def test_nothing_is_scored_when_no_judge_is_wanted(checkpoint, data, tmp_path):
    name = ["--benchmark", "world_events", "--data", str(data), *SHORT]
    assert run(["evaluate", str(checkpoint), *name, "--out", str(tmp_path), "--judge", "none"]) == 0
    assert not (tmp_path / "world_events" / "scores").exists()


def test_failed_questions_are_said_and_asked_again_on_request(checkpoint, tmp_path, capsys):
    data = write_set(
        tmp_path / "set", [("red", "what?", "x"), ("red", "who?", "y"), ("gone", "what?", "x")], missing=["gone"]
    )
    words = ["evaluate", str(checkpoint), "--benchmark", "world_qa", "--data", str(data), "--out", f"{tmp_path}/out"]
    assert run([*words, *SHORT]) == 2
    shown = capsys.readouterr()
    assert "0 of 3 questions answered, 1 without file, 2 failed" in shown.out
    assert (
        shown.err.count("\n") == 1
        and "1 without file: no video file (gone_2: not videos/gone (.mp4)); 2 failed:" in shown.err
    )
    write_video(data / "videos" / "red.mp4", (200, 20, 20))
    assert run([*words, *SHORT]) == 2
    capsys.readouterr()
    assert run([*words, *SHORT, "--retry-failed"]) == 0
    shown = capsys.readouterr().out
    assert "2 of 3 questions answered, 1 without file" in shown and "(gone_2: not videos/gone (.mp4))" in shown


def test_nothing_is_answered_where_every_video_is_missing(checkpoint, tmp_path, capsys):
    data = write_set(tmp_path / "set", [("gone", "what?", "x"), ("gone", "who?", "y")], missing=["gone"])
    words = ["evaluate", str(checkpoint), "--benchmark", "world_qa", "--data", str(data), "--out", f"{tmp_path}/out"]
    assert run([*words, *SHORT, "--judge", "none"]) == 2
    assert (
        "no question was answered: 2 without file: no video file (gone_0: not videos/gone (.mp4), gone_1)"
        in capsys.readouterr().err
    )
