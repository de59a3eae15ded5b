"""Training from the feature store: the same weights, and no file is decoded or encoded twice."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from launched import Launcher, largest_difference, log_lines, printed, with_settings
from training_world import COLOURS, conversation, mixed_samples

from vidtune.features.collection import Collection, collections
from vidtune.media import pool as pool_module
from vidtune.media.pool import LoadJob
from vidtune.models.towers.clip import ClipTower
from vidtune.models.video_lm import VideoLM
from vidtune.recipe import Recipe
from vidtune.training.run import train
from vidtune.training.signals import TrainingInterrupted

FROZEN = {"workers": 0, "epochs": 3, "train": {"connectors": 1e-2, "language_model": 1e-3}, "max_tokens_per_batch": 300}


def with_store(recipe: Recipe, features: str = "auto") -> Recipe:
    return recipe.model_copy(update={"features": features})


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Names of the files that are decoded, and how many items towers are given."""
    done: Counter[str] = Counter()
    execute, forward = pool_module.execute, ClipTower.forward

    def counted_execute(job: LoadJob) -> object:
        done[Path(job.path).name] += 1
        return execute(job)

    def counted_forward(self: ClipTower, values: torch.Tensor) -> torch.Tensor:
        done["items"] += len(values)
        return forward(self, values)

    monkeypatch.setattr(pool_module, "execute", counted_execute)
    monkeypatch.setattr(ClipTower, "forward", counted_forward)
    return done


def files(work: Counter[str]) -> dict[str, int]:
    return {name: number for name, number in work.items() if name != "items"}


def test_same_weights_and_every_file_is_decoded_and_encoded_once(
    make_recipe, tmp_path: Path, work: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(**FROZEN)
    train(recipe, tmp_path / "plain", progress=False)
    assert work["items"] > 2 * len(COLOURS) * 2
    work.clear()
    train(with_store(recipe), tmp_path / "first", progress=False)
    # What one pack has twice, or packs that are on their way have, may be computed twice; later epochs compute nothing.
    first = dict(work)
    assert largest_difference(tmp_path / "plain/align/final", tmp_path / "first/align/final") < 1e-6
    items = {folder.name: len(Collection(folder)) for folder in collections(tmp_path / "first/features")}
    assert sorted(items.values()) == [len(COLOURS), len(COLOURS)]
    work.clear()
    monkeypatch.setenv("VIDTUNE_FEATURES", str(tmp_path / "first/features"))
    train(with_store(recipe), tmp_path / "second", progress=False)
    assert not work
    assert largest_difference(tmp_path / "plain/align/final", tmp_path / "second/align/final") < 1e-6
    print(first)
