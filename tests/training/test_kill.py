"""Real processes, really killed: what is left on disk is always enough to go on as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vidtune.recipe import Recipe, dump_recipe
from vidtune.training.run import train
from vidtune.training.signals import TrainingInterrupted

KILLS = 10
STAGES = [
    {"name": "align", "max_steps": 12, "save_every": 2, "keep": 2},
    {"name": "tune", "max_steps": 16, "save_every": 3, "train": {"connectors": 1e-3, "language_model": 1e-3}},
]


class Launcher:
    """Runs of one recipe in child processes of ``launcher.py``."""

    def __init__(self, process: "subprocess.Popen[str]", recipe: Recipe, folder: Path) -> None:
        self.process, self.recipe = process, recipe
        self.recipe_file, self.out = folder / "recipe.yaml", folder / "out"

    def start(self, workers: int = 0) -> int:
        """Process id of a training run. The number of workers may differ from that of the run before."""
        assert self.process.stdin is not None
        stages = [stage.model_copy(update={"workers": workers}) for stage in self.recipe.stages]
        self.recipe_file.write_text(dump_recipe(self.recipe.model_copy(update={"stages": tuple(stages)})))
        self.process.stdin.write(json.dumps({"recipe": str(self.recipe_file), "out": str(self.out)}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def exit_code(self) -> int:
        return self._answer()

    def steps(self) -> int:
        """Steps in the logs."""
        return sum(len(path.read_bytes().splitlines()) for path in self.out.glob("*/log.jsonl"))

    def wait_for_steps(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while self.steps() < count:
            assert time.monotonic() < deadline, "the run does not move"
            time.sleep(0.01)

    def _answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def recipe(make_recipe) -> Recipe:
    return make_recipe(stages=STAGES)


@pytest.fixture(scope="module")
def expected(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of a run that nobody disturbs."""
    return load_file(train(recipe, tmp_path_factory.mktemp("whole"), progress=False) / "model.safetensors")


@pytest.fixture(scope="module")
def launcher_process() -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, str(Path(__file__).with_name("launcher.py"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def launcher(launcher_process: "subprocess.Popen[str]", recipe: Recipe, tmp_path: Path) -> Launcher:
    return Launcher(launcher_process, recipe, tmp_path)


def assert_final_weights(launcher: Launcher, expected: dict[str, torch.Tensor]) -> None:
    found = load_file(launcher.out / "tune/final/model.safetensors")
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    for stage in STAGES:
        lines = (launcher.out / str(stage["name"]) / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, int(str(stage["max_steps"])) + 1))
    assert not list(launcher.out.rglob("*.partial"))


def test_killed_at_random_moments_ends_with_the_weights_of_an_undisturbed_run(
    launcher: Launcher, expected: dict[str, torch.Tensor]
) -> None:
    moments = random.Random(7)
    for kill in range(KILLS):
        run = launcher.start(workers=1 if kill == KILLS // 2 else 0)
        # Mostly while steps are made and saved, sometimes while the run is still being set up.
        if moments.random() < 0.8:
            launcher.wait_for_steps(launcher.steps() + 1)
        time.sleep(moments.uniform(0.0, 0.15))
        os.kill(run, signal.SIGKILL)
        assert launcher.exit_code() == -signal.SIGKILL, "the run ended before it could be killed"
    launcher.start()
    assert launcher.exit_code() == 0
    assert_final_weights(launcher, expected)


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 1), (signal.SIGINT, 0)])
def test_signal_saves_the_step_and_leaves_with_its_own_exit_code(
    launcher: Launcher, expected: dict[str, torch.Tensor], number: signal.Signals, workers: int
) -> None:
    run = launcher.start(workers)
    launcher.wait_for_steps(3)
    os.killpg(run, number)
    assert launcher.exit_code() == TrainingInterrupted.exit_code
    saved = [path for path in launcher.out.glob("*/checkpoint-*") if (path / "state.json").is_file()]
    newest = max(saved, key=lambda path: path.stat().st_mtime_ns)
    earlier = 12 if newest.parent.name == "tune" else 0
    assert json.loads((newest / "state.json").read_text())["step"] + earlier == launcher.steps()
    launcher.start()
    assert launcher.exit_code() == 0
    assert_final_weights(launcher, expected)
    assert not list(launcher.out.glob("*/excluded.jsonl"))
