"""Two processes, DDP or FSDP2, give what one gives: whatever their packs hold, wherever they stop."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from launched import Launcher, largest_difference, log_lines, printed, with_settings
from training_world import COLOURS, conversation, mixed_samples

from vidtune.planning.plan import share
from vidtune.recipe.types import Recipe
from vidtune.training.run import train_stages as train
from vidtune.training.setup.stage import set_up
from vidtune.training.signals import TrainingInterrupted

TOLERANCE = 1e-6
STEPS = 5
EVERYTHING: dict[str, Any] = {
    "train": {"connectors": 1e-3, "language_model": 1e-3, "towers": 1e-3},
    "max_tokens_per_batch": 100,
    "max_steps": STEPS,
    "max_grad_norm": 0.5,
    "weight_decay": 0.1,
    "workers": 0,
}
LORA = {"learning_rate": 1e-2, "lora": {"rank": 4, "alpha": 8, "dropout": 0.3}}
# Each step has one pack with a video and one with text alone.
VIDEO_AND_TEXT = [
    sample
    for colour in COLOURS
    for sample in (
        conversation("<video>\nWhat moves?", f"a {colour} box.", video=f"{colour}.mp4"),
        conversation("Say it.", f"{colour}."),
    )
]
ALTERNATING: dict[str, Any] = {
    "order": "sequential",
    "global_batch_size": 2,
    "max_tokens_per_batch": 100,
    "max_steps": 4,
    "workers": 0,
}


def final(out: Path) -> Path:
    return out / "align/final"


def numbers(out: Path) -> list[tuple[Any, ...]]:
    """What a run saw and minimised in each step."""
    keys = ("step", "samples", "tokens", "supervised_tokens")
    return [tuple(line[key] for key in keys) for line in log_lines(out, "align")]


def assert_equal_runs(one: Path, other: Path, tolerance: float = TOLERANCE) -> None:
    assert largest_difference(final(one), final(other)) <= tolerance
    assert numbers(one) == numbers(other)
    for a, b in zip(log_lines(one, "align"), log_lines(other, "align"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-3, abs=1e-6)


def packs_per_step(recipe: Recipe, folder: Path) -> list[int]:
    folder.mkdir()
    plan = set_up(recipe, 0, folder).plan
    return [len(plan.packs(step)) for step in range(plan.total_steps)]


@pytest.fixture(scope="module")
def everything(make_recipe) -> Recipe:
    return make_recipe(**EVERYTHING)


@pytest.fixture(scope="module")
def alone(everything: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    train(everything, out, progress=False)
    return out


@pytest.fixture(scope="module")
def together(everything: Recipe, launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Run of two processes, by how they share the weights."""
    folder = tmp_path_factory.mktemp("together")

    @cache
    def run(parallel: str) -> Path:
        assert launcher.run(with_settings(everything, parallel=parallel), folder / parallel, 2) == [0, 0]
        return folder / parallel

    return run


# Copies of the weights by `make whole`: the adapters below are trained with them, in the same uneven packs.
@pytest.mark.parametrize("parallel", [pytest.param("ddp", marks=pytest.mark.whole), "fsdp2"])
def test_two_ranks_equal_one_process_also_with_uneven_packs(
    everything: Recipe, alone: Path, together: Callable[[str], Path], tmp_path: Path, parallel: str
) -> None:
    counts = packs_per_step(everything, tmp_path / "plan")
    assert any(count % 2 for count in counts), "no rank runs a dummy pack"
    assert_equal_runs(alone, together(parallel))
    assert {line["ranks"] for line in log_lines(together(parallel), "align")} == {2}


def test_pack_size_does_not_matter(everything: Recipe, alone: Path, tmp_path: Path) -> None:
    train(with_settings(everything, max_tokens_per_batch=400), tmp_path / "out", progress=False)
    assert_equal_runs(alone, tmp_path / "out")


@pytest.mark.whole
def test_gradients_reduced_after_every_pack_are_the_same(
    everything: Recipe, alone: Path, launcher: Launcher, tmp_path: Path
) -> None:
    recipe = with_settings(everything, parallel="fsdp2")
    assert launcher.run(recipe, tmp_path / "out", 2, sabotage={"how": "reduce every pack"}) == [0, 0]
    assert_equal_runs(alone, tmp_path / "out")


@pytest.mark.parametrize(
    ("train_what", "parallel"),
    [
        pytest.param({"towers.video": 1e-3, "connectors": 1e-3}, "ddp", marks=pytest.mark.whole),
        ({"towers.video": 1e-3, "connectors": 1e-3}, "fsdp2"),
        pytest.param({"connectors": 1e-2}, "fsdp2", marks=pytest.mark.whole),
    ],
)
def test_rank_that_never_sees_a_video(
    make_recipe, launcher: Launcher, tmp_path: Path, train_what: dict[str, float], parallel: str
) -> None:
    recipe = make_recipe(VIDEO_AND_TEXT, **ALTERNATING, train=train_what)
    train(recipe, tmp_path / "alone", progress=False)
    data = set_up(recipe, 0, tmp_path / "alone").data
    seen = {
        bool(data.table[index].media)
        for step in range(data.plan.total_steps)
        for number in share(data.plan.costs(step), 2)[1]
        if number is not None
        for index in data.plan.packs(step)[number]
    }
    assert seen == {False}
    assert launcher.run(with_settings(recipe, parallel=parallel), tmp_path / "two", 2) == [0, 0]
    assert_equal_runs(tmp_path / "alone", tmp_path / "two")


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp2", marks=pytest.mark.whole)])
def test_adapters_with_dropout_and_checkpointed_activations(
    make_recipe, launcher: Launcher, tmp_path: Path, parallel: str
) -> None:
    changes = {"train": {"connectors": 1e-3, "language_model": LORA}, "max_steps": 4, "gradient_checkpointing": True}
    recipe = make_recipe(**{**EVERYTHING, **changes})
    train(recipe, tmp_path / "alone", progress=False)
    assert launcher.run(with_settings(recipe, parallel=parallel), tmp_path / "two", 2) == [0, 0]
    assert_equal_runs(tmp_path / "alone", tmp_path / "two")


@pytest.mark.whole
def test_bfloat16_with_frozen_parts(make_recipe, launcher: Launcher, tmp_path: Path) -> None:
    trained = {"connectors": 1e-3, "towers.video": 1e-3, "language_model": LORA}
    recipe = make_recipe(**{**EVERYTHING, "train": trained, "precision": "bfloat16"})
    train(recipe, tmp_path / "alone", progress=False)
    assert launcher.run(with_settings(recipe, parallel="fsdp2"), tmp_path / "fsdp2", 2) == [0, 0]
    assert numbers(tmp_path / "fsdp2") == numbers(tmp_path / "alone")
    pairs = zip(log_lines(tmp_path / "fsdp2", "align"), log_lines(tmp_path / "alone", "align"), strict=True)
    assert all(a["loss"] == pytest.approx(b["loss"], rel=1e-3) for a, b in pairs)


@pytest.mark.parametrize(("parallel", "steps"), [pytest.param("ddp", 1, marks=pytest.mark.whole), ("fsdp2", 3)])
def test_stopped_again_and_again_and_resumed_is_bit_for_bit_never_stopped(
    everything: Recipe, together: Callable[[str], Path], launcher: Launcher, tmp_path: Path, parallel: str, steps: int
) -> None:
    recipe = with_settings(everything, parallel=parallel)
    codes = launcher.run(recipe, tmp_path / "out", 2, arguments={"stop_after": steps}, again=True)
    assert codes == [0, 0], printed(tmp_path / "out")
    assert largest_difference(final(tmp_path / "out"), final(together(parallel))) == 0
    assert numbers(tmp_path / "out") == numbers(together(parallel))


def test_resumed_with_other_ranks_is_equal_to_float_rounding_and_says_so(
    everything: Recipe, alone: Path, launcher: Launcher, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    two_steps = {"stop_after": 2}
    assert launcher.run(with_settings(everything, parallel="fsdp2"), out, 2, arguments=two_steps) == [130, 130]
    with pytest.raises(TrainingInterrupted):
        train(everything, out, stop_after=2, progress=False)
    told = " ".join(capfd.readouterr().err.split())
    assert "checkpoint-2 goes on with ranks 2 -> 1, parallel fsdp2 -> none: equal to float rounding" in told
    assert launcher.run(everything, out, 2) == [0, 0]
    assert "ranks 1 -> 2" in printed(out)
    assert_equal_runs(alone, out)


@pytest.mark.whole
def test_file_that_fails_on_one_rank_is_named_and_the_run_goes_on_and_resumes(
    make_recipe, media: Path, launcher: Launcher, tmp_path: Path
) -> None:
    out, resumed = tmp_path / "out", tmp_path / "resumed"
    os.mkfifo(media / "stuck.mp4")
    samples = [*mixed_samples(), conversation("<video>\nWhat is it?", "a box.", video="stuck.mp4")]
    changes = {"workers": 1, "media_timeout": 1, "max_steps": 5, "save_every": 3}
    recipe = make_recipe(samples, **{**EVERYTHING, **changes})
    try:
        assert launcher.run(recipe, out, 2) == [0, 0]
    finally:
        (media / "stuck.mp4").unlink()
    entries = [json.loads(line) for line in (out / "align/excluded.jsonl").read_text().splitlines()]
    assert [entry["step"] // 3 for entry in entries] == [0]  # a bad file is not tried again
    assert entries[0]["path"] == str(media / "stuck.mp4")
    assert 0 <= entries[0]["seconds"] < 30
    named = f"(rank {entries[0]['rank']}, after {entries[0]['seconds']:.1f} s)"
    assert named in " ".join(printed(out).split())
    # The rest again, from the checkpoint alone; what the run saw before is not tried again.
    shutil.copytree(out, resumed)
    shutil.rmtree(final(resumed))
    (resumed / "align/excluded.jsonl").unlink()
    assert launcher.run(with_settings(recipe, workers=0), resumed, 2) == [0, 0]
    assert largest_difference(final(out), final(resumed)) == 0
    lines = (resumed / "align/excluded.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [entry["step"] for entry in entries]


def test_failure_of_one_rank_ends_all_with_its_name(everything: Recipe, launcher: Launcher, tmp_path: Path) -> None:
    recipe = with_settings(everything, parallel="fsdp2")
    broken = {"rank": 1, "step": 2, "how": "loader"}
    started = time.monotonic()
    assert launcher.run(recipe, tmp_path / "loader", 2, sabotage=broken) == [2, 2]
    for rank in (0, 1):
        assert "rank 1: the disk is gone; bring it back" in printed(tmp_path / "loader", rank)
    codes = launcher.run(recipe, tmp_path / "forward", 2, sabotage={"rank": 1, "how": "forward"})
    assert codes == [1, 1]
    assert "out of memory, say" in printed(tmp_path / "forward", 1)
    assert time.monotonic() - started < 200


def test_loss_that_is_not_finite_names_the_samples_of_all_ranks(
    everything: Recipe, launcher: Launcher, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert launcher.run(everything, out, 2, sabotage={"rank": 1, "how": "nan"}) == [2, 2]
    assert "not finite in step 1" in printed(out)
    packs = json.loads((out / "align/nonfinite-step-1.json").read_text())["packs"]
    assert {pack["rank"] for pack in packs if pack["loss"] == "nan"} == {1}
    assert {pack["rank"] for pack in packs} == {0, 1}
    assert sum(len(pack["ids"]) for pack in packs) == 4


def test_changed_annotations_are_refused_by_all_ranks(make_recipe, launcher: Launcher, tmp_path: Path) -> None:
    recipe, out = make_recipe(**EVERYTHING), tmp_path / "out"
    with pytest.raises(TrainingInterrupted):
        train(recipe, out, stop_after=1, progress=False)
    path = Path(recipe.stages[0].data[0].annotations)
    path.write_text(path.read_text().replace("hello", "good morning"))
    assert launcher.run(recipe, out, 2) == [2, 2]
    message = printed(out)
    assert "checkpoint-1" in message
    assert f"the content of {path} differs" in message
    assert "rank" not in message


def test_signal_to_one_rank_stops_all_in_the_same_step(
    everything: Recipe, alone: Path, launcher: Launcher, tmp_path: Path
) -> None:
    recipe, out = with_settings(everything, save_every=1), tmp_path / "out"
    run = launcher.start(recipe, out, 2)
    run.wait_for_steps(2)
    os.kill(run.processes[1], signal.SIGTERM)
    codes = run.exit_codes()
    if codes != [0, 0]:  # it may have been through
        assert codes == [130, 130]
        steps = len(log_lines(out, "align"))
        assert f"stopped by SIGTERM after step {steps} of {STEPS}" in printed(out, 0)
        assert (out / f"align/checkpoint-{steps}/state.json").is_file()
        assert launcher.run(recipe, out, 2) == [0, 0]
    assert_equal_runs(alone, out)
