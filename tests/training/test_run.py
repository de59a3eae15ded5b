"""Whole runs: stages in order, frozen parts, resuming, refusals."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from launched import with_settings
from safetensors.torch import load_file

from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.load import load_checkpoint
from vidtune.errors import UserError
from vidtune.recipe.files import load_recipe
from vidtune.recipe.types import Recipe
from vidtune.training.run import train_stages as train
from vidtune.training.saving import checkpoints
from vidtune.training.signals import TrainingInterrupted

TWO_STAGES: list[dict[str, Any]] = [
    {"name": "align", "epochs": 2, "weight_decay": 0.1, "warmup": 0.3},
    {
        "name": "tune",
        "train": {"connectors": 1e-3, "language_model": 5e-3},
        "order": "modality_grouped",
        "media": {"video": {"flip_probability": 0.5}},
        "max_tokens_per_batch": 700,
        "max_grad_norm": 1.0,
        "epochs": 1.5,
    },
]


def weights(final: Path) -> dict[str, torch.Tensor]:
    return load_file(final / "model.safetensors")


def log_lines(stage: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage / "log.jsonl").read_text().splitlines()]


def run(recipe: Recipe, out: Path, stop_after: int | None = None) -> Path:
    return train(recipe, out, stop_after=stop_after, progress=False)


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture(scope="module")
def undisturbed(make_recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    recipe, out = make_recipe(stages=TWO_STAGES), tmp_path_factory.mktemp("run") / "out"
    run(recipe, out)
    return recipe, out


def test_stages_train_what_they_name_and_nothing_else(undisturbed: tuple[Recipe, Path]) -> None:
    recipe, out = undisturbed
    start, align, tune = build_model(recipe).state_dict(), weights(out / "align/final"), weights(out / "tune/final")
    for name in align:
        assert torch.equal(start[name], align[name]) == (not name.startswith("connectors.")), name
        assert torch.equal(align[name], tune[name]) == name.startswith("towers."), name


def test_log_has_every_step_with_rates_norms_and_counts(undisturbed: tuple[Recipe, Path]) -> None:
    _, out = undisturbed
    align, tune = log_lines(out / "align"), log_lines(out / "tune")
    assert [line["step"] for line in align] == [1, 2, 3, 4, 5, 6]
    assert [line["samples"] for line in align] == [4, 4, 3, 4, 4, 3]
    assert [line["step"] for line in tune] == [1, 2, 3, 4, 5]
    assert align[0]["learning_rate"]["connectors.visual"] == 0
    assert align[2]["learning_rate"]["connectors.visual"] == 1e-2
    for line in tune[1:]:
        rates, norms = line["learning_rate"], line["gradient_norm"]
        assert rates["language_model"] == pytest.approx(5 * rates["connectors.visual"])
        assert norms["total"] ** 2 == pytest.approx(norms["language_model"] ** 2 + norms["connectors.visual"] ** 2)
        assert 0 < line["supervised_tokens"] < line["tokens"]
    assert tune[-1]["loss"] < align[0]["loss"]
    assert any((out / "tune/tensorboard").iterdir())


def test_final_is_a_whole_checkpoint_with_recipe_and_provenance(undisturbed: tuple[Recipe, Path]) -> None:
    recipe, out = undisturbed
    loaded = load_checkpoint(out / "tune/final")
    assert_same_weights(dict(loaded.model.state_dict()), weights(out / "tune/final"))
    assert loaded.processor.streams["video"].preprocessing.flip_probability == 0.5
    assert load_recipe(out / "tune/final/recipe.yaml") == load_recipe(out / "recipe.yaml") == recipe
    provenance = json.loads((out / "tune/final/provenance.json").read_text())
    assert (provenance["stage"], provenance["step"], provenance["folder"]) == ("tune", 5, str(Path.cwd()))


def test_finished_run_is_not_repeated(undisturbed: tuple[Recipe, Path]) -> None:
    recipe, out = undisturbed
    before = (out / "tune/final/model.safetensors").stat().st_mtime_ns
    assert run(recipe, out) == out / "tune/final"
    assert (out / "tune/final/model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(("steps", "stops"), [(3, 3), pytest.param(1, 10, marks=pytest.mark.whole)])
def test_stopped_again_and_again_and_resumed_equals_never_stopped(
    undisturbed: tuple[Recipe, Path], tmp_path: Path, steps: int, stops: int
) -> None:
    recipe, whole = undisturbed
    recipe, out = with_settings(recipe, workers=0), tmp_path / "stopped"
    # The last step of a stage ends it, whoever asks for a stop.
    for _ in range(stops):
        with pytest.raises(TrainingInterrupted, match=r"stopped by stop_after .* run the same command again"):
            run(recipe, out, stop_after=steps)
    final = run(recipe, out, stop_after=steps)
    assert_same_weights(weights(final), weights(whole / "tune/final"))
    for stage in ("align", "tune"):
        pairs = zip(log_lines(out / stage), log_lines(whole / stage), strict=True)
        assert all(a["step"] == b["step"] and a["loss"] == b["loss"] for a, b in pairs)


def test_number_of_workers_does_not_change_the_weights(undisturbed: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, whole = undisturbed
    final = run(with_settings(recipe, workers=0), tmp_path / "other")
    assert_same_weights(weights(final), weights(whole / "tune/final"))


def test_only_the_newest_checkpoints_are_kept(make_recipe, tmp_path: Path) -> None:
    run(make_recipe(max_steps=5, save_every=1, keep=2), tmp_path / "out")
    assert [path.name for path in checkpoints(tmp_path / "out/align")] == ["checkpoint-3", "checkpoint-4"]
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_half_written_checkpoint_is_ignored_and_removed(make_recipe, tmp_path: Path) -> None:
    recipe, out = make_recipe(max_steps=4, save_every=2), tmp_path / "out"
    with pytest.raises(TrainingInterrupted):
        run(recipe, out, stop_after=2)
    (out / "align/checkpoint-3.partial").mkdir()
    (out / "align/checkpoint-3.partial/state.json").write_text("{")
    run(recipe, out)
    assert not (out / "align/checkpoint-3.partial").exists()


def test_stage_may_start_from_a_checkpoint_or_an_earlier_stage(make_recipe, tmp_path: Path) -> None:
    first = run(make_recipe(max_steps=2), tmp_path / "first")
    run(
        make_recipe(stages=[{"from": str(first), "max_steps": 1, "schedule": "constant", "warmup": 0.5}]),
        tmp_path / "b",
    )
    # The only step is a warm-up step with rate zero: the weights are those it started from.
    assert_same_weights(weights(tmp_path / "b/align/final"), weights(first))


def test_gradient_checkpointing_and_bfloat16_train(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe(
        max_steps=3, precision="bfloat16", gradient_checkpointing=True, train={"connectors": 1e-2, "towers.image": 1e-3}
    )
    final = run(recipe, tmp_path / "out")
    assert load_checkpoint(final).report.missing == []
    losses = [line["loss"] for line in log_lines(tmp_path / "out/align")]
    assert losses[-1] < losses[0]


def test_gradient_checkpointing_does_not_change_the_weights(make_recipe, tmp_path: Path) -> None:
    plain = run(make_recipe(max_steps=3), tmp_path / "plain")
    saving = run(make_recipe(max_steps=3, gradient_checkpointing=True), tmp_path / "saving")
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(saving)[name], tensor, msg=name)


@pytest.mark.parametrize("limit", [None, 0.04])
def test_optimizer_sees_mean_gradients_clipped_to_the_limit(
    make_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float | None
) -> None:
    seen: list[float] = []
    real = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW) -> None:
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        seen.append(float(torch.nn.utils.get_total_norm(gradients)))
        real(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run(make_recipe(max_steps=3, max_grad_norm=limit, max_tokens_per_batch=500, workers=0), tmp_path / "out")
    norms = [line["gradient_norm"]["total"] for line in log_lines(tmp_path / "out/align")]
    assert seen == pytest.approx([min(norm, limit or norm) for norm in norms], rel=1e-4)
    assert limit is None or min(norms) < limit < max(norms)


def test_folder_of_another_recipe_is_refused_with_the_first_difference(make_recipe, tmp_path: Path) -> None:
    out, recipe = tmp_path / "out", make_recipe(max_steps=1)

    def changed(**changes: Any) -> Recipe:
        return recipe.model_copy(update={"stages": (recipe.stages[0].model_copy(update=changes),)})

    run(recipe, out)
    before = (out / "recipe.yaml").read_text()
    with pytest.raises(UserError, match=r"out: .*another recipe: stages\.align\.max_steps was 1 and is 2"):
        run(changed(max_steps=2), out)
    with pytest.raises(UserError, match=r"another recipe: seed was 42 and is 1"):
        run(recipe.model_copy(update={"seed": 1}), out)
    assert (out / "recipe.yaml").read_text() == before
    run(changed(workers=0, save_every=7), out)


def test_folder_in_use_is_refused(make_recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    hold = (
        "import filelock,sys; lock=filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", hold, str(out / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is training"):
            run(make_recipe(max_steps=1), out)
        holder.communicate("\n")


def test_changed_annotations_are_refused_on_resume(make_recipe, tmp_path: Path) -> None:
    recipe, out = make_recipe(max_steps=4), tmp_path / "out"
    with pytest.raises(TrainingInterrupted):
        run(recipe, out, stop_after=2)
    path = Path(recipe.stages[0].data[0].annotations)
    path.write_text(path.read_text().replace("hello", "good morning"))
    with pytest.raises(
        UserError, match=r"checkpoint-2: the training data .* have changed since: the content of .*train.json differs"
    ):
        run(recipe, out)
