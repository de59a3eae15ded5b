"""Contrastive training from the feature store: each medium and each text passes its frozen tower once."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from launched import largest_difference, log_lines
from test_contrastive_stage import comparing, pairs
from test_extraction import command
from test_stored_features import held, with_store
from training_world import COLOURS, conversation

from vidtune.cli.main import run as run_command
from vidtune.media import pool as pool_module
from vidtune.models.text_alignment.contrast import Contrast
from vidtune.models.towers.clip import ClipTower
from vidtune.recipe.types import Recipe
from vidtune.training.run import train_stages as train
from vidtune.training.setup.stage import set_up
from vidtune.training.setup.stored_features import StoredFeatures

__all__ = ["comparing"]
FROZEN = {"train": {"contrast.video": 1e-2, "contrast.image": 1e-2, "contrast.temperature": 1e-2}, "workers": 0}
TEXTS = 2 * len(COLOURS)
FROZEN |= {"max_steps": None, "epochs": 2, "global_batch_size": 9}


@pytest.fixture
def frozen(comparing: Callable[..., Recipe]) -> Recipe:
    """Two steps of three packs each; two videos have one text."""
    return comparing([*pairs(), conversation("<video>\nWhat?", "all of it is red.", video="blue.mp4")], **FROZEN)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Number of files that are decoded, media that towers pool, and texts that a text tower reads."""
    done: Counter[str] = Counter()

    def counted(owner: object, name: str, what: str, number: Callable[..., int]) -> None:
        plain = getattr(owner, name)

        def call(*arguments: object) -> object:
            done[what] += number(*arguments)
            return plain(*arguments)

        monkeypatch.setattr(owner, name, call)

    counted(pool_module, "execute", "files", lambda job: 1)
    counted(ClipTower, "pooled", "media", lambda tower, pixels: len(pixels))
    counted(Contrast, "text_vectors", "texts", lambda contrast, ids: len(ids))
    return done


def test_same_losses_and_weights_and_nothing_is_encoded_twice(
    frozen: Recipe, tmp_path: Path, work: Counter[str]
) -> None:
    train(frozen, tmp_path / "plain", progress=False)
    assert work["media"] > 2 * work["files"] and work["texts"] > 2 * TEXTS
    stored = with_store(frozen, str(tmp_path / "store"))
    media = 2 * len(COLOURS)
    for name, expected in (("first", {"files": media, "media": media, "texts": TEXTS}), ("second", {})):
        work.clear()
        train(stored, tmp_path / name, progress=False)
        assert work == expected
        assert largest_difference(tmp_path / "plain/align/final", tmp_path / name / "align/final") < 1e-6
        losses = [[line["loss"] for line in log_lines(tmp_path / out, "align")] for out in ("plain", name)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    found = {"towers.image image": len(COLOURS), "towers.video video": len(COLOURS), "text tower text": TEXTS}
    assert held(tmp_path / "store") == found


def opened(recipe: Recipe, folder: Path) -> StoredFeatures:
    """What a stage would read, closed."""
    folder.mkdir()
    with set_up(with_store(recipe, str(folder / "store")), 0, folder).stored as stored:
        return stored


def test_what_trains_is_not_stored_and_the_log_says_so(comparing: Callable[..., Recipe], tmp_path: Path) -> None:
    stored = opened(comparing(train={"towers.video": 1e-3, "contrast.text_tower": 1e-3}), tmp_path / "run")
    assert list(stored.towers) == ["image"] and stored.texts is None
    assert sum("towers.video trains" in note or "contrast.text_tower trains" in note for note in stored.notes) == 2


def test_pooled_outputs_and_features_of_one_tower_are_kept_apart(
    comparing: Callable[..., Recipe], tmp_path: Path
) -> None:
    pools = {"pooled": {}, "averaged": {"pool": {"video": "mean"}}}
    found = [opened(comparing(contrast=how, **FROZEN), tmp_path / name) for name, how in pools.items()]
    one, other = ({stream: cache.spec.key for stream, cache in stored.towers.items()} for stored in found)
    assert one["image"] == other["image"] and one["video"] != other["video"]


def test_extraction_stores_what_the_stage_reads(
    comparing: Callable[..., Recipe], tmp_path: Path, work: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train(comparing(**{**FROZEN, "max_steps": 1}), tmp_path / "aligned", progress=False)
    text = str(tmp_path / "aligned/align/final")
    recipe = with_store(comparing(contrast={"text_tower": text}, **FROZEN), str(tmp_path / "store"))
    words = command(recipe, tmp_path)
    assert run_command(words) == 0
    told = capsys.readouterr().out
    assert f"video: {len(COLOURS)} stored" in told and f"text: {TEXTS} stored, 0 found" in told
    work.clear()
    train(recipe, tmp_path / "out", progress=False)
    assert not work
    assert run_command(words) == 0
    assert f"text: 0 stored, {TEXTS} found" in capsys.readouterr().out
