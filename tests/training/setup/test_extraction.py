"""Extraction before training: what a recipe's stages take from the store is what the command put there."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launched import with_settings
from safetensors.torch import save_file
from test_stored_features import FROZEN, TOLERANCE, difference, held, with_store, work
from training_world import COLOURS, TOWER, conversation, mixed_samples

from vidtune.checkpoints.build import build_model
from vidtune.cli.main import run
from vidtune.features.collection import Collection, collections
from vidtune.recipe.files import dump_recipe
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS
from vidtune.training.run import train_stages as train
from vidtune.training.setup.stage import set_up

__all__ = ["work"]
ALL = len(COLOURS)


def command(recipe: Recipe, folder: Path, *options: str) -> list[str]:
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    return ["features", "extract", str(path), "--store", str(folder / "store"), "--workers", "0", *options]


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The one line that a command is refused with."""
    capsys.readouterr()
    assert run(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.whole)])
def test_training_after_extraction_decodes_and_encodes_nothing(
    make_recipe, tmp_path: Path, work: Counter[str], capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    recipe = with_store(make_recipe(**{**FROZEN, "precision": precision}), str(tmp_path / "store"))
    words = command(recipe, tmp_path)
    assert run(words) == 0
    assert f"stage align: video: {ALL} stored, 0 found, 0 without it, 0 failed" in capsys.readouterr().out
    assert work["items"] == 2 * ALL
    work.clear()
    train(recipe, tmp_path / "out", progress=False)
    assert not work
    assert run(words) == 0
    assert f"video: 0 stored, {ALL} found" in capsys.readouterr().out
    assert not work


def test_shares_and_worker_processes(make_recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [*mixed_samples(), conversation("<video>\nWhat?", "x", video="gone.mp4")]
    recipe = make_recipe(samples, **FROZEN)
    for rank in ("0", "1"):
        assert run(command(recipe, tmp_path, "--rank", rank, "--ranks", "2", "--workers", rank)) == 0
    told = capsys.readouterr().out
    assert held(tmp_path / "store") == {"towers.image image": ALL, "towers.video video": ALL}
    assert told.count("gone.mp4: file does not exist") == 1
    assert "is not possible with --ranks 2" in refused(capsys, command(recipe, tmp_path, "--rank", "2", "--ranks", "2"))


def test_files_of_which_none_can_be_read_are_no_success(
    make_recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe([conversation("<video>\nWhat?", "x", video="gone.mp4")], **FROZEN)
    words = command(recipe, tmp_path)
    assert refused(capsys, words) == "error: stream video: not one file can be read; the reasons are listed above"


def test_what_trains_or_is_random_is_refused_by_name_and_else_passed_over(
    make_recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flips = {"media": {"video": {"flip_probability": 0.5}}}
    recipe = make_recipe(**{**FROZEN, "train": {"towers.image": 1e-3}, **flips})
    assert "stream image: towers.image trains" in refused(capsys, command(recipe, tmp_path, "--stream", "image"))
    line = refused(capsys, command(recipe, tmp_path, "--stream", "video"))
    assert "random (media.video.flip_probability)" in line and "cannot be stored" in line
    assert "nothing can be stored" in refused(capsys, command(recipe, tmp_path))
    assert not list(collections(tmp_path / "store"))
    recipe = make_recipe(**{**FROZEN, **flips})
    assert run(command(recipe, tmp_path)) == 0
    told = capsys.readouterr().out
    assert "not stored: stage 'align': stream video" in told and f"image: {ALL} stored" in told


def test_tower_that_an_earlier_stage_trained_comes_from_its_result(
    make_recipe, tmp_path: Path, work: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    see = {"name": "see", "max_steps": 2, "train": {"towers.video": 1e-2}}
    stages: list[dict[str, Any]] = [see, {"name": "speak", "train": {"connectors": 1e-3}}]
    recipe = with_store(make_recipe(stages=stages, workers=0), str(tmp_path / "store"))
    line = refused(capsys, command(recipe, tmp_path, "--stage", "speak"))
    assert "towers.video is trained in stage 'see' first" in line and "--out" in line
    out = tmp_path / "run"
    train(recipe, out, progress=False)
    before = held(tmp_path / "store")
    assert before["towers.video video"] == ALL
    work.clear()
    assert run(command(recipe, tmp_path, "--stage", "speak", "--out", str(out))) == 0
    assert not work
    assert held(tmp_path / "store") == before
    assert "no stage 'speek'" in refused(capsys, command(recipe, tmp_path, "--stage", "speek"))
    assert "stream 'vidoe' does not exist" in refused(capsys, command(recipe, tmp_path, "--stream", "vidoe"))


def test_weights_that_a_recipe_names_are_read_without_its_language_model(
    make_recipe, media: Path, tmp_path: Path, work: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = make_recipe(**FROZEN)
    towers = published(drawn, tmp_path)
    recipe = with_store(drawn.model_copy(update={"towers": towers}), str(tmp_path / "store"))
    with monkeypatch.context() as context:
        context.setattr("vidtune.checkpoints.build.build_model", None)
        context.setattr("vidtune.checkpoints.build.assemble", None)
        assert run(command(recipe, tmp_path)) == 0
    work.clear()
    train(recipe, tmp_path / "out", progress=False)
    assert not work
    named = [f"--tower=video_llava:{name}={folder}" for name, folder in towers.items()]
    alone = ["features", "extract", *named, "--videos", str(media), "--store", str(tmp_path / "store")]
    assert run([*alone, "--workers", "0"]) == 0
    assert not work
    assert held(tmp_path / "store") == {"towers.image image": ALL, "towers.video video": ALL}
    assert run([*alone, "--workers", "0", "--dtype", "float16"]) == 0
    dtypes = {Collection(folder).about["made_by"]["dtype"] for folder in collections(tmp_path / "store")}
    assert dtypes == {"float32", "float16"}


def published(recipe: Recipe, folder: Path) -> dict[str, str]:
    """Towers as they are published: a folder of config.json and weights under their own names, each."""
    model = build_model(recipe)
    published = SYSTEMS[recipe.system].publication
    found = {}
    for name, tower in model.towers.items():
        target = folder / f"tower-{name}"
        target.mkdir()
        state = {
            str(published.tower(name).keys.to_theirs(key)): tensor.contiguous()
            for key, tensor in tower.state_dict().items()
        }
        save_file(state, target / "model.safetensors")
        vision = {**TOWER, "patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
        if name == "video":
            vision |= {"add_time_attn": True, "num_frames": 4}
        (target / "config.json").write_text(json.dumps({"vision_config": vision}))
        found[name] = str(target)
    return found


def test_imported_features_stand_in_for_the_files_of_a_recipe(
    make_recipe, media: Path, tmp_path: Path, work: Counter[str]
) -> None:
    samples = [conversation("<video>\nWhat moves?", f"a {c} box.", video=f"{c}.mp4") for c in COLOURS]
    recipe = make_recipe(samples, **FROZEN)
    train(recipe, tmp_path / "plain", progress=False)
    folder = tmp_path / "published"
    folder.mkdir()
    setup = set_up(recipe, 0, tmp_path)
    for number, colour in enumerate(COLOURS):
        pixels = torch.from_numpy(setup.processor.preprocessing["video"].load(str(media / f"{colour}.mp4")))
        features = setup.model.towers["video"](pixels[None])[0].detach()
        if number % 2:
            np.save(folder / f"{colour}.npy", features.numpy())
        else:
            torch.save(features, folder / f"{colour}.pt")
    store = tmp_path / "store"
    assert run(["features", "import", str(folder), "--store", str(store), "--name", "mine"]) == 0
    shutil.rmtree(folder)
    (source,) = recipe.stages[0].data
    source = source.model_copy(update={"features": {"video": str(store / "mine")}})
    work.clear()
    train(with_settings(with_store(recipe), data=(source,)), tmp_path / "out", progress=False)
    assert set(work) == {f"{colour}.safetensors" for colour in COLOURS}
    assert difference(tmp_path / "plain", tmp_path / "out") < TOLERANCE
    assert not held(tmp_path / "out/features")["towers.video video"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name one of a recipe, towers with --tower, or a benchmark"),
        (["--tower", "video_llava:video"], "name the folder of the files with --videos"),
        (["--tower", "video_llava", "--videos", "."], "write SYSTEM:STREAM"),
        (["--tower", "video_llava:vidoe", "--videos", "."], "no stream 'vidoe'"),
        (["--tower", "video_lava:video", "--videos", "."], "video_lava"),
        (["--tower", "video_llava:video=./none", "--videos", "."], "./none: no such file or folder"),
        (["--tower", "a:b", "--tower", "c:d", "--videos", "."], "one system at a time"),
        (["video_llava_tiny", "--dtype", "int8"], "unknown dtype 'int8'"),
        (["video_llava_tiny", "--videos", "none"], "no such folder"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in refused(capsys, ["features", "extract", *words, "--store", str(tmp_path)])
