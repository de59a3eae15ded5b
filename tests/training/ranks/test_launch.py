"""The launcher of several local processes: what it tells them, and what becomes of the others when one ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from launched import Launcher, log_lines, logged_steps

from vidtune.cli.main import run as run_command
from vidtune.errors import UserError
from vidtune.machine.ranks.launch import launch
from vidtune.recipe.files import dump_recipe

RANK = str(Path(__file__).parents[2] / "support" / "rank_of_a_launch.py")
LAUNCH = (
    "import sys; from vidtune.machine.ranks.launch import launch; sys.exit(launch(sys.argv[2:], int(sys.argv[1])).code)"
)


def start(folder: Path, what: str, processes: int = 3) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", LAUNCH, str(processes), sys.executable, RANK, str(folder), what]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def told(folder: Path, rank: int) -> dict[str, str]:
    """The variables of a rank, once it has started."""
    path = folder / f"{rank}.json"
    deadline = time.monotonic() + 120
    while not (path.is_file() and path.read_text().endswith("}")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return json.loads(path.read_text())


def wait_until_gone(process: int) -> None:
    deadline = time.monotonic() + 60
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_processes_get_the_variables_of_torchrun(tmp_path: Path) -> None:
    assert launch([sys.executable, RANK, str(tmp_path), "end"], 3).code == 0
    found = [told(tmp_path, rank) for rank in range(3)]
    assert [place["RANK"] for place in found] == [place["LOCAL_RANK"] for place in found] == ["0", "1", "2"]
    assert {place["WORLD_SIZE"] for place in found} == {place["LOCAL_WORLD_SIZE"] for place in found} == {"3"}
    assert {place["MASTER_ADDR"] for place in found} == {"127.0.0.1"}
    assert len({place["MASTER_PORT"] for place in found}) == 1


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("die", 137, "error: rank 1 was killed by SIGKILL and the others were ended"),
        ("fail", 7, "error: rank 1 failed with exit code 7 and the others were ended"),
        ("mistake", 2, ""),
    ],
)
def test_one_that_ends_ends_the_others_with_one_message(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], what: str, code: int, message: str
) -> None:
    started = time.monotonic()
    assert launch([sys.executable, RANK, str(tmp_path), what], 3).code == code
    errors = capfd.readouterr().err
    assert errors.startswith(message)
    assert errors.count("\n") == bool(message)
    assert time.monotonic() - started < 55
    for path in tmp_path.glob("*.json"):
        wait_until_gone(json.loads(path.read_text())["process"])


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.whole)])
def test_signal_is_handed_on_and_the_exit_code_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "wait")
    for rank in range(3):
        told(tmp_path, rank)
    process.send_signal(number)
    assert process.communicate()[1] == ""
    assert process.returncode == 130


def test_ranks_that_end_before_they_train_are_interrupted(tmp_path: Path) -> None:
    """A rank that was writing a table when the signal came leaves with 143 instead of dying by the signal."""
    process = start(tmp_path, "clean")
    for rank in range(3):
        told(tmp_path, rank)
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1].startswith("interrupted before the first step")
    assert process.returncode == 130


def test_killed_launcher_leaves_no_process_behind(tmp_path: Path) -> None:
    process = start(tmp_path, "wait")
    processes = [int(told(tmp_path, rank)["process"]) for rank in range(3)]
    process.kill()
    process.communicate()
    for rank in processes:
        wait_until_gone(rank)


def test_launcher_inside_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match=r"--processes: .*RANK is set"):
        launch(["true"], 2)


@pytest.mark.whole
def test_command_line_trains_on_two_processes_stops_on_a_signal_and_resumes(
    make_recipe, launcher: Launcher, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe, out = make_recipe(max_steps=24, save_every=7, workers=0, max_tokens_per_batch=200), tmp_path / "out"
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))

    def stop() -> None:
        deadline = time.monotonic() + 120
        while logged_steps(out) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    # This process is the launcher of the two, which are the command itself.
    assert run_command(["train", str(tmp_path / "recipe.yaml"), "--out", str(out), "--processes", "2"]) == 130
    stopper.join()
    errors = capfd.readouterr().err
    assert errors.count("stopped by SIGTERM after step") == 1
    assert "Warning" not in errors
    assert launcher.run(recipe, out, 2) == [0, 0]
    assert [line["step"] for line in log_lines(out, "align")] == list(range(1, 25))
