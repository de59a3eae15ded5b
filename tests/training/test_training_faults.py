"""What goes wrong while training: files, annotations, numbers, settings. It is named, and the rest trains if it can."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_world import COLOURS, conversation, mixed_samples

from vidtune.errors import UnreadMediaError, UserError
from vidtune.media import pool
from vidtune.models.video_lm import VideoLM
from vidtune.recipe.types import Recipe
from vidtune.training.run import train_stages as train
from vidtune.training.signals import TrainingInterrupted


def run(recipe: Recipe, out: Path, stop_after: int | None = None) -> dict[str, torch.Tensor]:
    return load_file(train(recipe, out, stop_after=stop_after, progress=False) / "model.safetensors")


def excluded(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "align/excluded.jsonl").read_text().splitlines()]


def logged(out: Path, key: str) -> list[Any]:
    return [json.loads(line)[key] for line in (out / "align/log.jsonl").read_text().splitlines()]


@pytest.fixture
def fifo(media: Path) -> Iterator[str]:
    """Name of a pipe, which never delivers its bytes, in the place of a media file."""
    path = media / "never.mp4"
    os.mkfifo(path)
    yield path.name
    path.unlink()


def test_what_is_no_file_is_named_and_left_out(
    make_recipe, media: Path, fifo: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    samples = [*mixed_samples(), conversation("<video>\nWhat is it?", "a box.", video=fifo)]
    out = tmp_path / "out"
    run(make_recipe(samples, epochs=2), out)
    (entry,) = excluded(out)[:1]
    assert entry["id"].endswith(":11")
    assert entry["path"] == str(media / fifo)
    assert (entry["reason"], entry["cause"]) == ("is a named pipe, not a file", "bad file")
    assert "never.mp4" in capfd.readouterr().err
    assert sum(logged(out, "samples")) == 2 * (len(samples) - 1)
    assert [e["id"] for e in excluded(out)] == [entry["id"]] * 2


def test_missing_and_broken_files_are_left_out_and_the_step_counts_what_was_loaded(make_recipe, tmp_path: Path) -> None:
    good = mixed_samples()[:3]
    bad = [conversation("<video>\nWhat?", "a box.", video="gone.mp4")]
    both, only = tmp_path / "both", tmp_path / "only"
    common = {"workers": 0, "order": "sequential", "max_steps": 1, "schedule": "constant", "warmup": 0.0}
    with_bad = run(make_recipe(good + bad, **common), both)
    assert [entry["path"].rsplit("/")[-1] for entry in excluded(both)] == ["gone.mp4"]
    without = run(make_recipe(good, **common), only)
    # The gradient is that of the three good samples, divided by their tokens only.
    assert logged(both, "supervised_tokens") == logged(only, "supervised_tokens")
    for name, tensor in without.items():
        torch.testing.assert_close(with_bad[name], tensor, msg=name)


@pytest.mark.parametrize("list_is_lost", [False, True])
def test_failure_is_replayed_on_resume_although_the_file_is_there_again(
    make_recipe, media: Path, tmp_path: Path, list_is_lost: bool
) -> None:
    samples = [*mixed_samples(), conversation("<image>\nWhich?", "a late one.", image="late.png")]
    recipe = make_recipe(samples, workers=0, order="sequential", epochs=3)
    expected = run(recipe, tmp_path / "whole")
    out = tmp_path / "stopped"
    with pytest.raises(TrainingInterrupted):
        run(recipe, out, stop_after=4)
    if list_is_lost:
        (out / "align/excluded.jsonl").unlink()
    (media / "late.png").write_bytes((media / "red.png").read_bytes())
    try:
        found = run(recipe, out)
    finally:
        (media / "late.png").unlink()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert [entry["step"] for entry in excluded(out)] == [2, 5, 8]


def test_a_file_that_could_not_be_read_then_costs_the_rest_of_one_epoch(
    make_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all epochs were requested before it failed; and a run that goes on leaves out the same steps."""
    real, tries = pool.execute, iter(range(99))

    def killed_first(job: pool.LoadJob) -> object:
        if job.path.endswith("red.png") and not next(tries):
            raise UnreadMediaError(job.path, "the process reading it died")
        return real(job)

    monkeypatch.setattr(pool, "execute", killed_first)
    samples = [conversation("<image>\nWhich?", f"{n}", image="red.png") for n in range(2)]
    recipe = make_recipe(samples, workers=0, order="sequential", global_batch_size=1, epochs=3)
    run(recipe, tmp_path / "out")
    assert logged(tmp_path / "out", "samples") == [0, 0, 1, 1, 1, 1]
    assert [(e["step"], e["cause"], e["again"]) for e in excluded(tmp_path / "out")] == [
        (0, "not read then", 2), (1, "not read then", 2)
    ]  # fmt: skip


def test_unusable_annotation_is_left_out(make_recipe, tmp_path: Path) -> None:
    samples = [*mixed_samples(), conversation("<video>\nWhat?", "x", video="../../etc/passwd")]
    run(make_recipe(samples, workers=0, epochs=1), tmp_path / "out")
    (entry,) = excluded(tmp_path / "out")
    assert "step" not in entry
    assert "etc/passwd" in entry["detail"]
    assert sum(logged(tmp_path / "out", "samples")) == len(samples) - 1


def test_step_without_any_usable_sample_goes_on(make_recipe, tmp_path: Path) -> None:
    samples = [conversation("<video>\nWhat?", "x", video="gone.mp4"), *mixed_samples()]
    run(make_recipe(samples, workers=0, order="sequential", global_batch_size=1), tmp_path / "out")
    assert logged(tmp_path / "out", "samples") == [0] + [1] * 11


def test_a_stage_whose_files_all_fail_has_no_result(make_recipe, tmp_path: Path) -> None:
    samples = [conversation("<image>\nWhich?", "x", image=f"gone{number}.png") for number in range(4)]
    with pytest.raises(UserError, match=r"stage 'align' has trained nothing: .* 4 were left out \(.*excluded.jsonl\)"):
        run(make_recipe(samples, workers=0, epochs=1), tmp_path / "out")
    assert not (tmp_path / "out/align/final").exists()


def test_a_component_that_no_usable_sample_reaches_is_named(
    make_recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [conversation("<image>\nWhich?", "x", image="gone.png"), conversation("Say yes.", "yes.")]
    trained = {"connectors": 1e-3, "language_model": 1e-3}
    train(make_recipe(samples, workers=0, train=trained, epochs=1), tmp_path / "out", progress=True)
    assert "connectors.visual was not trained: no sample that could be used reached it" in capsys.readouterr().err


def test_media_that_fail_wholesale_stop_the_run(make_recipe, tmp_path: Path) -> None:
    samples = [conversation("<image>\nWhich?", "x", image=f"gone{number}.png") for number in range(20)]
    with pytest.raises(
        UserError,
        match=r"excluded.jsonl: 12 of 12 samples could not be used, more than max_excluded \(0.05\).*gone\d+.png",
    ):
        run(make_recipe(samples, workers=0), tmp_path / "out")


def test_samples_that_the_data_check_excluded_never_enter_the_plan(make_recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "align").mkdir(parents=True)
    (out / "align/excluded.jsonl").write_text('{"id": "train:0", "source": "train.json", "reason": "missing"}\n')
    run(make_recipe(workers=0), out)
    assert sum(logged(out, "samples")) == len(mixed_samples()) - 1


def test_loss_that_is_not_finite_stops_and_names_the_samples(
    make_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = VideoLM.loss_terms

    def poisoned(self: VideoLM, batch: Any) -> Any:
        text, aligned = real(self, batch)
        return text * (float("nan") if "train:9" in batch.ids else 1.0), aligned

    monkeypatch.setattr(VideoLM, "loss_terms", poisoned)
    with pytest.raises(UserError, match=r"not finite in step 3; (.*nonfinite-step-3.json) names the samples"):
        run(make_recipe(workers=0, order="sequential"), tmp_path / "out")
    report = json.loads((tmp_path / "out/align/nonfinite-step-3.json").read_text())
    assert report["packs"] == [{"rank": 0, "loss": "nan", "ids": ["train:8", "train:9", "train:10"]}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"connectors.visuel": 1.0}}, "did you mean 'connectors.visual'"),
        (
            {"data": [{"annotations": "/nowhere/train.json"}]},
            "stage 'align': annotations /nowhere/train.json do not exist",
        ),
        ({"prompt": "vicuna"}, "stage 'align': no prompt format 'vicuna'; did you mean 'vicuna_v1'"),
        ({"media": {"vidio": {}}}, "stage 'align': .*vidio"),
        ({"media": {"image": {"pad": True}}}, "stage 'align': .*image.*pad"),
        ({"max_tokens_per_batch": 20}, r"max_tokens_per_batch .*at least \d+"),
    ],
)
def test_mistakes_in_the_recipe_are_one_line(
    make_recipe, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(make_recipe(workers=0, **changes), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_mistake_in_a_later_stage_is_found_before_the_first_trains(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe(stages=[{"name": "align"}, {"name": "tune", "train": {"towers.audio": 1.0}}], workers=0)
    with pytest.raises(UserError, match=r"stage 'tune': train names no component by 'towers.audio'"):
        run(recipe, tmp_path / "out")
    assert not (tmp_path / "out/align/log.jsonl").exists()


def test_empty_annotations_are_refused(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe(workers=0)
    Path(recipe.stages[0].data[0].annotations).write_text("[]")
    with pytest.raises(UserError, match=r"stage 'align': .*no sample"):
        run(recipe, tmp_path / "out")


def test_same_video_is_decoded_once(make_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = pool.execute
    monkeypatch.setattr(pool, "execute", lambda job: (read.append(job.path), real(job))[1])
    samples = [conversation(f"<video>\nQuestion {n}?", "yes.", video=f"{c}.mp4") for c in COLOURS for n in range(3)]
    run(make_recipe(samples, workers=0, epochs=2), tmp_path / "out")
    assert len(read) == len(set(read)) == len(COLOURS)


def test_limit_smaller_than_a_sample_is_found_before_training(make_recipe, tmp_path: Path) -> None:
    samples = [*mixed_samples(), conversation("Say it all.", "word " * 300)]
    with pytest.raises(UserError, match=r"sample train:11 has (\d+) tokens .*at least \1"):
        run(make_recipe(samples, workers=0, order="sequential", max_tokens_per_batch=500), tmp_path / "out")
    assert not (tmp_path / "out/align/log.jsonl").exists()


@pytest.mark.parametrize("changes", [{"max_steps": 1}, {"max_steps": 3, "save_every": 1}])
def test_weights_that_an_update_broke_are_never_saved(make_recipe, tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = make_recipe(train={"connectors": 1.0}, schedule="constant", warmup=0, workers=0, **changes)
    stage = recipe.stages[0]  # a recipe may not say such a learning rate
    how = stage.train["connectors"].model_copy(update={"learning_rate": 1e39})
    recipe = recipe.model_copy(update={"stages": (stage.model_copy(update={"train": {"connectors": how}}),)})
    with pytest.raises(UserError, match=r"weights of connectors\.visual are NaN or Inf after step 1, and"):
        run(recipe, tmp_path / "out")
    assert not list((tmp_path / "out/align").glob("checkpoint-*")) and not (tmp_path / "out/align/final").exists()
