"""Training from the feature store: the same weights, and no file is decoded or encoded twice."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from launched import Launcher, largest_difference, log_lines, printed, with_settings
from test_distilled_training import MakeRecipe, distilled
from training_world import COLOURS, conversation, mixed_samples, write_video

from vidtune.errors import UserError
from vidtune.features.collection import Collection, collections
from vidtune.media import pool as pool_module
from vidtune.media.pool import LoadJob
from vidtune.models.distillation import Teacher
from vidtune.models.towers.clip import ClipTower
from vidtune.recipe.fingerprint import recipe_fingerprint
from vidtune.recipe.types import Recipe
from vidtune.training.run import train_stages as train
from vidtune.training.setup.stage import set_up
from vidtune.training.signals import TrainingInterrupted

__all__ = ["distilled"]

FROZEN: dict[str, Any] = {
    "workers": 0,
    "epochs": 3,
    "train": {"connectors": 1e-2, "language_model": 1e-3},
    "max_tokens_per_batch": 300,
}
TOLERANCE = 1e-6


def with_store(recipe: Recipe, features: str = "auto") -> Recipe:
    return recipe.model_copy(update={"features": features})


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Names of the files that are decoded, and how many items towers ("items") and teachers ("taught") are given."""
    done: Counter[str] = Counter()
    execute, forward, teach = pool_module.execute, ClipTower.forward, Teacher.forward

    def counted_execute(job: LoadJob) -> object:
        done[Path(job.path).name] += 1
        if job.second is not None:
            done["for teachers"] += 1
        return execute(job)

    def counted_forward(self: ClipTower, values: torch.Tensor) -> torch.Tensor:
        done["items"] += len(values)
        return forward(self, values)

    def counted_teach(self: Teacher, clips: list[torch.Tensor]) -> list[torch.Tensor]:
        done["taught"] += len(clips)
        return teach(self, clips)

    monkeypatch.setattr(pool_module, "execute", counted_execute)
    monkeypatch.setattr(ClipTower, "forward", counted_forward)
    monkeypatch.setattr(Teacher, "forward", counted_teach)
    return done


def held(store: Path) -> dict[str, int]:
    """How many items every collection holds, by stream."""
    found = [Collection(folder) for folder in collections(store)]
    return {f"{c.about['origin']['tower']} {c.about['origin']['stream']}": len(c) for c in found}


@pytest.fixture(scope="module")
def frozen(make_recipe: MakeRecipe) -> Recipe:
    return make_recipe(**FROZEN)


@pytest.fixture(scope="module")
def plain(frozen: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a store."""
    out = tmp_path_factory.mktemp("without_a_store") / "plain"
    train(frozen, out, progress=False)
    return out


def difference(one: Path, other: Path) -> float:
    return largest_difference(one / "align/final", other / "align/final")


def test_weights_are_the_same_and_the_second_run_decodes_and_encodes_nothing(
    frozen: Recipe, plain: Path, tmp_path: Path, work: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = frozen
    work.clear()
    train(with_store(recipe), tmp_path / "first", progress=False)
    uses = sum(("video" in sample) + ("image" in sample) for sample in mixed_samples())
    assert work["items"] < FROZEN["epochs"] * uses
    assert {number for name, number in work.items() if name != "items"} == {1}
    assert difference(plain, tmp_path / "first") < TOLERANCE
    store = tmp_path / "first/features"
    assert held(store) == {"towers.image image": len(COLOURS), "towers.video video": len(COLOURS)}
    work.clear()
    monkeypatch.setenv("VIDTUNE_FEATURES", str(store))
    train(with_store(recipe), tmp_path / "second", progress=False)
    assert not work
    assert difference(plain, tmp_path / "second") < TOLERANCE
    assert not (tmp_path / "second/features").exists()


def test_equal_bit_for_bit_where_every_item_is_encoded_alone(make_recipe, tmp_path: Path) -> None:
    samples = [conversation("<video>\nWhat moves?", f"a {c} box.", video=f"{c}.mp4") for c in COLOURS]
    recipe = make_recipe(samples, **{**FROZEN, "epochs": 2, "global_batch_size": 1})
    train(recipe, tmp_path / "plain", progress=False)
    stored = with_store(recipe, str(tmp_path / "store"))
    for name in ("first", "second"):
        train(stored, tmp_path / name, progress=False)
        assert difference(tmp_path / "plain", tmp_path / name) == 0
        losses = [[line["loss"] for line in log_lines(tmp_path / out, "align")] for out in ("plain", name)]
        assert losses[0] == losses[1]


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp2", marks=pytest.mark.whole)])
def test_two_ranks_fill_one_store_and_train_from_it(
    make_recipe, launcher: Launcher, tmp_path: Path, parallel: str
) -> None:
    recipe = make_recipe(**{**FROZEN, "epochs": 2})
    train(recipe, tmp_path / "plain", progress=False)
    stored = with_settings(with_store(recipe, str(tmp_path / "store")), parallel=parallel)
    for name in ("first", "second"):
        assert launcher.run(stored, tmp_path / name, 2) == [0, 0], printed(tmp_path / name)
        assert difference(tmp_path / "plain", tmp_path / name) < TOLERANCE
        assert sorted(held(tmp_path / "store").values()) == [len(COLOURS), len(COLOURS)]
    told = printed(tmp_path / "second").replace("\n", "")
    assert f"features of video: {len(COLOURS)} in" in told


@pytest.mark.whole
def test_bfloat16_is_stored_in_two_bytes_and_gives_the_same_weights(
    make_recipe, tmp_path: Path, work: Counter[str]
) -> None:
    recipe = make_recipe(**{**FROZEN, "epochs": 2, "precision": "bfloat16"})
    stored = with_store(recipe, str(tmp_path / "store"))
    train(recipe, tmp_path / "plain", progress=False)
    train(stored, tmp_path / "first", progress=False)
    found = [Collection(folder) for folder in collections(tmp_path / "store")]
    assert {c.get(c.items()[0]).dtype for c in found} == {torch.bfloat16}
    work.clear()
    train(stored, tmp_path / "second", progress=False)
    assert not work
    for name in ("first", "second"):
        assert difference(tmp_path / "plain", tmp_path / name) < 2e-3
        pairs = zip(log_lines(tmp_path / "plain", "align"), log_lines(tmp_path / name, "align"), strict=True)
        assert all(a["loss"] == pytest.approx(b["loss"], rel=2e-3) for a, b in pairs)


def test_stopped_again_and_again_a_run_goes_on_with_its_store(frozen: Recipe, plain: Path, tmp_path: Path) -> None:
    for _ in range(100):
        try:
            train(with_store(frozen), tmp_path / "out", stop_after=3, progress=False)
            break
        except TrainingInterrupted:
            assert held(tmp_path / "out/features")
    assert difference(plain, tmp_path / "out") < TOLERANCE


def test_store_may_be_lost_moved_or_added_between_two_parts_of_a_run(
    frozen: Recipe, plain: Path, tmp_path: Path
) -> None:
    recipe = frozen
    assert recipe_fingerprint(recipe) == recipe_fingerprint(with_store(recipe))
    with pytest.raises(TrainingInterrupted):
        train(recipe, tmp_path / "out", stop_after=2, progress=False)
    with pytest.raises(TrainingInterrupted):
        train(with_store(recipe), tmp_path / "out", stop_after=3, progress=False)
    shutil.rmtree(tmp_path / "out/features")
    train(with_store(recipe, str(tmp_path / "elsewhere")), tmp_path / "out", progress=False)
    assert difference(plain, tmp_path / "out") < TOLERANCE


def test_changed_file_or_tower_is_decoded_and_encoded_again(
    make_recipe, media: Path, tmp_path: Path, work: Counter[str]
) -> None:
    own = tmp_path / "media"
    shutil.copytree(media, own)
    recipe = with_store(make_recipe(**{**FROZEN, "epochs": 1}), str(tmp_path / "store"))
    (stage,) = recipe.stages
    data = tuple(source.model_copy(update={"media": str(own)}) for source in stage.data)
    recipe = recipe.model_copy(update={"stages": (stage.model_copy(update={"data": data}),)})
    train(recipe, tmp_path / "first", progress=False)
    work.clear()
    write_video(own / "red.mp4", (10, 90, 200))
    train(recipe, tmp_path / "second", progress=False)
    assert {name for name in work if name != "items"} == {"red.mp4"}
    shutil.move(own, tmp_path / "moved")
    data = tuple(source.model_copy(update={"media": str(tmp_path / "moved")}) for source in stage.data)
    recipe = recipe.model_copy(update={"stages": (stage.model_copy(update={"data": data}),)})
    work.clear()
    train(recipe, tmp_path / "third", progress=False)
    assert not work
    train(recipe.model_copy(update={"seed": 7}), tmp_path / "fourth", progress=False)
    assert work["items"] >= 2 * len(COLOURS)


def test_what_trains_or_is_random_is_computed_anew_and_the_log_says_so_once(
    make_recipe, tmp_path: Path, work: Counter[str], capfd: pytest.CaptureFixture[str]
) -> None:
    trained = {"train": {"connectors": 1e-2, "towers.image": 1e-3}, "media": {"video": {"flip_probability": 0.5}}}
    recipe = make_recipe(**{**FROZEN, "epochs": 2, **trained})
    train(recipe, tmp_path / "plain", progress=False)
    plain = dict(work)
    work.clear()
    capfd.readouterr()
    train(with_store(recipe), tmp_path / "out", progress=False)
    assert dict(work) == plain
    assert difference(tmp_path / "plain", tmp_path / "out") == 0
    told = capfd.readouterr().err
    assert told.count("stream image: towers.image trains: its features are computed anew each time") == 1
    assert told.count("stream video: its preprocessing is random (media.video.flip_probability)") == 1


def test_bad_file_is_left_out_as_without_a_store(make_recipe, tmp_path: Path) -> None:
    samples = [*mixed_samples(), conversation("<video>\nWhat?", "x", video="gone.mp4")]
    recipe = make_recipe(samples, **{**FROZEN, "epochs": 2})
    for name, chosen in (("plain", recipe), ("stored", with_store(recipe))):
        train(chosen, tmp_path / name, progress=False)
    entries = [
        [json.loads(line) for line in (tmp_path / name / "align/excluded.jsonl").read_text().splitlines()]
        for name in ("plain", "stored")
    ]
    plain, stored = ([(e["id"], e["step"], e["path"]) for e in found] for found in entries)
    assert plain == stored and len(plain) >= 1
    assert difference(tmp_path / "plain", tmp_path / "stored") < TOLERANCE


def test_a_writer_thread_that_dies_fails_the_run(make_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> int:
        raise RuntimeError("a fault of its own")

    monkeypatch.setattr(Collection, "write", fail)
    with pytest.raises(UserError, match="features cannot be stored: RuntimeError: a fault of its own"):
        train(with_store(make_recipe(**FROZEN)), tmp_path / "out", progress=False)


def test_store_that_cannot_be_written_does_not_stop_training(
    frozen: Recipe, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vidtune.features.collection.write_shard", full)
    train(with_store(frozen), tmp_path / "out", progress=False)
    assert difference(plain, tmp_path / "out") < TOLERANCE
    assert "features cannot be stored: No space left on device" in " ".join(capfd.readouterr().err.split())


def test_teacher_is_served_from_the_store_and_looks_once(
    distilled: MakeRecipe, tmp_path: Path, work: Counter[str]
) -> None:
    # The loader runs eight packs ahead: it looks for step 4 after the first packs of step 1, which step 4 repeats.
    recipe = distilled(max_steps=5, order="sequential")
    train(recipe, tmp_path / "plain", progress=False)
    plain = dict(work)
    work.clear()
    stored = with_store(recipe, str(tmp_path / "store"))
    train(stored, tmp_path / "first", progress=False)
    assert 0 < work["taught"] < plain["taught"]
    first = work["taught"]
    (items,) = held(tmp_path / "store").values()
    assert items == len({name for name in work if name.endswith(".mp4")}) <= first
    work.clear()
    train(stored, tmp_path / "second", progress=False)
    assert not {"taught", "items", "for teachers"} & set(work)
    assert {name: n for name, n in work.items() if n} == {name: n for name, n in plain.items() if name.endswith(".mp4")}
    for name in ("first", "second"):
        assert difference(tmp_path / "plain", tmp_path / name) < 2e-6
        for a, b in zip(log_lines(tmp_path / "plain", "align"), log_lines(tmp_path / name, "align"), strict=True):
            assert a["losses"] == pytest.approx(b["losses"], rel=1e-5)


@pytest.mark.whole
def test_frozen_tower_of_a_distilled_stream_runs_each_time_and_its_teacher_once(
    distilled: MakeRecipe, tmp_path: Path, work: Counter[str], capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = distilled(max_steps=3, train={"alignments": 1e-2, "connectors": 1e-3})
    train(recipe, tmp_path / "plain", progress=False)
    stored = with_store(recipe, str(tmp_path / "store"))
    train(stored, tmp_path / "first", progress=False)
    assert "stream video: it is distilled" in capfd.readouterr().err
    work.clear()
    train(stored, tmp_path / "second", progress=False)
    assert not work["taught"]
    assert list(held(tmp_path / "store")) == ["teacher video"]
    for name in ("first", "second"):
        assert difference(tmp_path / "plain", tmp_path / name) < 2e-6


def test_file_that_changes_while_it_is_decoded_is_not_stored(
    make_recipe, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "media"
    shutil.copytree(media, own)
    recipe = make_recipe(**{**FROZEN, "epochs": 1})
    data = [source.model_copy(update={"media": str(own)}) for source in recipe.stages[0].data]
    execute = pool_module.execute

    def change(job: LoadJob) -> object:
        found = execute(job)
        if job.path.endswith("red.mp4"):
            write_video(own / "red.mp4", (1, 2, 3))
        return found

    monkeypatch.setattr(pool_module, "execute", change)
    train(with_store(with_settings(recipe, data=tuple(data))), tmp_path / "out", progress=False)
    assert held(tmp_path / "out/features") == {"towers.image image": len(COLOURS), "towers.video video": 3}


def test_set_up_opens_no_store_where_none_is_asked_for(make_recipe, tmp_path: Path) -> None:
    setup = set_up(make_recipe(**FROZEN), 0, tmp_path)
    assert not setup.stored.towers and not setup.stored.notes
    assert not list(tmp_path.rglob("collection.json"))
