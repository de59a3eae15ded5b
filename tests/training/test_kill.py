"""Real processes, really killed: what is left on disk is always enough to go on as if nothing had happened."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from launched import Launcher, Run, logged_steps, with_settings
from safetensors.torch import load_file

from vidtune.recipe import Recipe
from vidtune.training.run import train
from vidtune.training.signals import TrainingInterrupted

STAGES = [
    {"name": "align", "max_steps": 12, "save_every": 2, "keep": 2},
    {"name": "tune", "max_steps": 16, "save_every": 3, "train": {"connectors": 1e-3, "language_model": 1e-3}},
]
# How many kills of a run of one process, of both processes of a run, and of one of its two.
ALONE, ALL, ONE = 10, 5, 5


@pytest.fixture(scope="module")
def recipe(make_recipe) -> Recipe:
    return make_recipe(stages=STAGES, workers=0)


@pytest.fixture(scope="module")
def expected(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of a run that nobody disturbs."""
    return load_file(train(recipe, tmp_path_factory.mktemp("whole"), progress=False) / "model.safetensors")


def assert_final(out: Path, expected: dict[str, torch.Tensor]) -> None:
    found = load_file(out / "tune/final/model.safetensors")
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    for stage in STAGES:
        lines = (out / str(stage["name"]) / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, int(str(stage["max_steps"])) + 1))
    assert not list(out.rglob("*.partial"))


def wait_for_a_moment(run: Run, moments: random.Random) -> None:
    """Mostly while steps are made and saved, sometimes while the run is still being set up."""
    if moments.random() < 0.8:
        run.wait_for_steps(logged_steps(run.out) + 1)
    time.sleep(moments.uniform(0.0, 0.15))


def test_killed_at_random_moments_ends_with_the_weights_of_an_undisturbed_run(
    launcher: Launcher, recipe: Recipe, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    moments, out = random.Random(7), tmp_path / "out"
    for _ in range(ALONE):
        run = launcher.start(recipe, out)
        wait_for_a_moment(run, moments)
        os.kill(run.processes[0], signal.SIGKILL)
        assert run.exit_codes() == [-signal.SIGKILL], "the run ended before it could be killed"
    assert launcher.run(recipe, out) == [0]
    assert_final(out, expected)


def test_two_ranks_killed_together_or_one_of_them(launcher: Launcher, recipe: Recipe, tmp_path: Path) -> None:
    moments, out = random.Random(8), tmp_path / "out"
    recipe = with_settings(recipe, max_tokens_per_batch=200)
    assert launcher.run(recipe, tmp_path / "whole", 2) == [0, 0]
    for kill in range(ALL + ONE):
        run = launcher.start(recipe, out, 2)
        wait_for_a_moment(run, moments)
        victims = run.processes if kill % 2 else [run.processes[kill // 2 % 2]]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        codes = run.exit_codes()
        assert time.monotonic() - killed < 30, "the other rank hangs"
        assert 0 not in codes, "the run ended before it could be killed"
        assert codes.count(-signal.SIGKILL) == len(victims)
    assert launcher.run(recipe, out, 2) == [0, 0]
    assert_final(out, load_file(tmp_path / "whole/tune/final/model.safetensors"))


def test_ctrl_c_saves_the_step_and_leaves_with_its_own_exit_code(
    launcher: Launcher, recipe: Recipe, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = launcher.start(with_settings(recipe, workers=1), out)
    run.wait_for_steps(3)
    os.killpg(run.processes[0], signal.SIGINT)  # as a terminal does, to the media workers as well
    assert run.exit_codes() == [TrainingInterrupted.exit_code]
    saved = [path for path in out.glob("*/checkpoint-*") if (path / "state.json").is_file()]
    newest = max(saved, key=lambda path: path.stat().st_mtime_ns)
    earlier = 12 if newest.parent.name == "tune" else 0
    assert json.loads((newest / "state.json").read_text())["step"] + earlier == logged_steps(out)
    assert launcher.run(recipe, out) == [0]
    assert_final(out, expected)
    assert not list(out.glob("*/excluded.jsonl"))
