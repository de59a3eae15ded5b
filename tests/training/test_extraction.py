"""Extraction before training: what a recipe's stages take from the store is what the command put there."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_stored_features import FROZEN, with_store, work
from training_world import COLOURS, conversation, mixed_samples

from vidtune.cli.main import run
from vidtune.features.collection import Collection, collections
from vidtune.recipe import Recipe, dump_recipe
from vidtune.training.run import train

__all__ = ["work"]


def written(recipe: Recipe, folder: Path) -> str:
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    return str(path)


def test_training_after_extraction_decodes_and_encodes_nothing(
    make_recipe, tmp_path: Path, work: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = with_store(make_recipe(**FROZEN), str(tmp_path / "store"))
    command = ["features", "extract", written(recipe, tmp_path), "--store", str(tmp_path / "store"), "--workers", "0"]
    assert run(command) == 0
    told = capsys.readouterr().out
    assert f"stage align: video: {len(COLOURS)} stored, 0 found, 0 without it, 0 failed" in told
    assert work["items"] == 2 * len(COLOURS)
    work.clear()
    train(recipe, tmp_path / "out", progress=False)
    assert not work
    assert run(command) == 0
    assert f"video: 0 stored, {len(COLOURS)} found" in capsys.readouterr().out
    assert not work
