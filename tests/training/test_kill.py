"""Real processes, really killed: what is left on disk is always enough to go on as if nothing had happened."""

import json
import os
import random
import signal
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
import torch
from launched import Launcher, Run, logged_steps, with_settings
from safetensors.torch import load_file

from vidtune.recipe.types import Recipe
from vidtune.training.run import train_stages as train
from vidtune.training.signals import TrainingInterrupted

STAGES = [
    {"name": "align", "max_steps": 12, "save_every": 2, "keep": 2},
    {"name": "tune", "max_steps": 16, "save_every": 3, "train": {"connectors": 1e-3, "language_model": 1e-3}},
]
TOTAL_STEPS = 28
# How many kills of a run of one process; ten are of one or both processes of a run of two.
ALONE = [3, pytest.param(10, marks=pytest.mark.whole)]


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


def killed(run: Run, victims: list[int], moments: random.Random) -> bool:
    """Kill processes of a run at a random moment: mostly while steps are made and saved, sometimes while it is being
    set up. False when the run was done before.
    """
    if moments.random() < 0.8:
        run.wait_for_steps(min(logged_steps(run.out) + 1, TOTAL_STEPS))
    time.sleep(moments.uniform(0.0, 0.15))
    for victim in victims:
        with suppress(ProcessLookupError):
            os.kill(run.processes[victim], signal.SIGKILL)
    began = time.monotonic()
    codes = run.exit_codes()
    assert time.monotonic() - began < 120, "the other rank hangs"
    if 0 in codes:
        return False
    assert codes.count(-signal.SIGKILL) == len(victims)
    return True


def kill_and_go_on(
    launcher: Launcher, recipe: Recipe, folder: Path, kills: list[list[int]], expected: dict[str, torch.Tensor]
) -> None:
    """Start a run again after every kill; one that was quicker than the kill is looked at, and the next begins anew."""
    moments, left, ranks = random.Random(7), list(kills), max(map(max, kills)) + 1
    for number in count():
        out = folder / str(number)
        while left and killed(launcher.start(recipe, out, ranks), left[-1], moments):
            left.pop()
        assert launcher.run(recipe, out, ranks) == [0] * ranks
        assert_final(out, expected)
        if not left:
            return


@pytest.mark.parametrize("kills", ALONE)
def test_killed_at_random_moments_ends_with_the_weights_of_an_undisturbed_run(
    launcher: Launcher, recipe: Recipe, expected: dict[str, torch.Tensor], tmp_path: Path, kills: int
) -> None:
    kill_and_go_on(launcher, recipe, tmp_path, [[0]] * kills, expected)


@pytest.mark.whole
def test_two_ranks_killed_together_or_one_of_them(launcher: Launcher, recipe: Recipe, tmp_path: Path) -> None:
    recipe = with_settings(recipe, max_tokens_per_batch=200)
    assert launcher.run(recipe, tmp_path / "whole", 2) == [0, 0]
    expected = load_file(tmp_path / "whole/tune/final/model.safetensors")
    kills = [[0, 1], [1], [0, 1], [0], [0, 1], [1], [0, 1], [0], [0, 1], [1]]
    kill_and_go_on(launcher, recipe, tmp_path, kills, expected)


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
