"""The dry run: what it says is what training then does."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from training_world import LANGUAGE_MODEL, conversation, mixed_samples

from vidtune.checkpoints import build
from vidtune.checkpoints.files.tensors import TensorFile
from vidtune.cli.main import run as run_command
from vidtune.models.config import VideoLMConfig
from vidtune.recipe.files import dump_recipe
from vidtune.recipe.types import Recipe
from vidtune.training import loop
from vidtune.training.estimates.costs import StageCosts
from vidtune.training.inspection import dry_run
from vidtune.training.inspection.dry_run import describe, forecast
from vidtune.training.packs.pack import LoadedPack
from vidtune.training.run import train_stages as train

STAGES: list[dict[str, Any]] = [
    {"name": "align", "epochs": 1.5},
    {"name": "tune", "train": {"connectors": 1e-3, "language_model": 5e-3}, "order": "modality_grouped"},
]


@pytest.fixture
def recipe(make_recipe) -> Recipe:
    samples = [*mixed_samples(), conversation("<video>\nWhat?", "x", video="../../etc/passwd")]
    made = make_recipe(samples, stages=STAGES, workers=0, max_tokens_per_batch=300)
    heavier = made.stages[1].data[0].model_copy(update={"weight": 1.5})
    return made.model_copy(update={"stages": (made.stages[0], made.stages[1].model_copy(update={"data": (heavier,)}))})


@pytest.fixture(scope="module")
def known() -> dict[str, StageCosts]:
    return {}


@pytest.fixture
def costs_once(known: dict[str, StageCosts], monkeypatch: pytest.MonkeyPatch) -> None:
    """The costs of equal stages are counted once."""
    count = dry_run.stage_costs

    def once(config: VideoLMConfig, *about: Any) -> StageCosts:
        key = f"{config.to_json_string()} {about}"
        if key not in known:
            known[key] = count(config, *about)
        return known[key]

    monkeypatch.setattr(dry_run, "stage_costs", once)


def test_the_forecast_is_what_training_does_and_builds_no_weights(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: dict[str, StageCosts], costs_once: None
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("weights were asked for")

    known.clear()  # they are counted here

    with monkeypatch.context() as patch:
        patch.setattr(build, "build_model", refuse)
        patch.setattr(TensorFile, "read", refuse)
        planned = list(forecast(recipe, tmp_path / "out"))
    assert [stage.stage.name for stage in planned] == ["align", "tune"] and len(known) == 2
    vocabulary = build.build_config(recipe).text_config.vocab_size
    assert not list((tmp_path / "out").glob("align*"))
    packs: list[LoadedPack] = []
    real = loop.Ahead.next
    monkeypatch.setattr(loop.Ahead, "next", lambda self: (packs.append(real(self)), packs[-1])[1])
    train(recipe, tmp_path / "out", progress=False)
    for stage in planned:
        path = tmp_path / "out" / stage.stage.name / "log.jsonl"
        log = [json.loads(line) for line in path.read_text().splitlines()]
        own, packs = packs[: stage.packs], packs[stage.packs :]
        assert stage.steps == len(log)
        assert stage.trained_samples == sum(line["samples"] for line in log)
        assert stage.tokens == sum(line["tokens"] for line in log)
        assert stage.supervised == sum(line["supervised_tokens"] for line in log)
        assert np.array_equal(stage.packs_per_step, np.bincount([pack.step for pack in own]))
        placeholders = [pack.batch.input_ids >= vocabulary for pack in own]
        assert stage.media_tokens == sum(int(places.sum()) for places in placeholders)
        padded = sum(len(pack.examples) * max(map(len, pack.examples)) for pack in own)
        assert stage.padded_tokens == padded > stage.tokens
        assert (stage.samples, stage.excluded) == (len(mixed_samples()), 1)
    assert packs == []


def test_sizes_of_hub_models_are_looked_up_without_their_weights(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, costs_once: None
) -> None:
    folder = tmp_path / "snapshot"
    build.build_config(recipe).text_config.save_pretrained(folder)
    asked: list[str] = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert (name, revision) == ("org/language-model", None)
        asked.extend(allow_patterns)
        return str(folder)

    files = ["config.json", "model.safetensors", "pytorch_model.bin"]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, name, revision: files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    named = recipe.model_copy(update={"language_model": "org/language-model"})
    planned, sizes = list(forecast(named, tmp_path / "out")), list(forecast(recipe, tmp_path / "out"))
    assert set(asked) == {"config.json"}
    assert [stage.memory for stage in planned] == [stage.memory for stage in sizes]


def test_a_stage_that_starts_from_a_checkpoint_takes_its_sizes(make_recipe, tmp_path: Path, costs_once: None) -> None:
    small = make_recipe(max_steps=1, workers=0)
    final = train(small, tmp_path / "small", progress=False)
    recipe = make_recipe(stages=[{"from": str(final), "max_steps": 1}])
    larger = recipe.model_copy(update={"language_model": {**LANGUAGE_MODEL, "hidden_size": 64}})
    (from_small,), (alone,) = forecast(larger, tmp_path / "out"), forecast(small, tmp_path / "out")
    assert from_small.memory == alone.memory is not None


def test_adapters_need_less_memory_than_the_whole(make_recipe, tmp_path: Path) -> None:
    adapted = {"learning_rate": 1e-4, "lora": {"rank": 2}}
    forecasts = [forecast(make_recipe(train={"language_model": how}), tmp_path) for how in (adapted, 1e-4)]
    (lora,), (whole,) = forecasts
    assert 0 < lora.memory.optimizer < whole.memory.optimizer / 10


def test_idle_ranks_are_counted_and_the_advice_helps(make_recipe, tmp_path: Path, costs_once: None) -> None:
    recipe = make_recipe(mixed_samples() * 20, global_batch_size=32, max_tokens_per_batch=2400)
    (alone,) = forecast(recipe, tmp_path)
    assert alone.idle == 0 and alone.advice is None
    (many,) = forecast(recipe, tmp_path, ranks=4)
    places = sum(-(-count // 4) * 4 for count in many.packs_per_step.tolist())
    assert many.idle == pytest.approx(1 - many.packs / places)
    assert many.idle > 0.4
    assert many.advice is not None
    limit = int(many.advice.split("about ")[1].split(",")[0])
    better = recipe.stages[0].model_copy(update={"max_tokens_per_batch": limit})
    (after,) = forecast(recipe.model_copy(update={"stages": (better,)}), tmp_path, ranks=4)
    assert after.idle < 0.15 and after.advice is None
    (too_many,) = forecast(recipe, tmp_path, ranks=64)
    assert "max_tokens_per_batch to" not in str(too_many.advice) and "fewer ranks" in str(too_many.advice)


def test_the_command_prints_every_stage_and_keeps_what_it_counted(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], costs_once: None
) -> None:
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    path.write_text(dump_recipe(recipe))
    arguments = ["train", str(path), "--dry-run", "--ranks", "3", "--tokens-per-second", "0.01"]
    assert run_command([*arguments, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    planned = list(forecast(recipe, out, ranks=3))
    assert printed == "\n".join(describe(stage, 0.01) for stage in planned) + "\n"
    assert list((out / "tables").glob("lengths-*.npy"))
    assert run_command(arguments) == 0
    assert capsys.readouterr().out == printed
    lines = [line.split()[0] for line in printed.splitlines() if not line.startswith("stage")]
    names = ["samples", "steps", "packs", "tokens", "padding", "ranks", "memory", "time"]
    assert [line for line in lines if line != "warning"] == 2 * names
    tokens = int(printed.split("tokens   ")[1].split(":")[0].replace(",", ""))
    assert f"{tokens / 0.01 / 3600:,.1f} hours" in printed
    first = planned[0]
    assert "MiB per rank: weights" in printed and "GiB" not in printed  # a tiny model
    assert f"{first.tokens / 100:.1f} seconds at 100" in describe(first, 100)
    assert f"{first.tokens / 300:.1f} minutes at 5 " in describe(first, 5)
    assert "  time     not estimated; --tokens-per-second N" in describe(first)


def test_training_needs_a_folder(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    assert run_command(["train", str(tmp_path / "recipe.yaml")]) == 2
    assert "--out" in capsys.readouterr().err
