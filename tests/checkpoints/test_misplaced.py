"""A folder that holds no checkpoint: the message names those that lie below it."""

import os
from pathlib import Path

import pytest

import vidtune
from vidtune.checkpoints.files.misplaced import require_checkpoint
from vidtune.checkpoints.recognise import recognise
from vidtune.cli.main import run
from vidtune.errors import UserError
from vidtune.machine import nearby


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of a run as it looks from outside: two stages with results, a saved step of the second."""
    for age, name in enumerate(["align/final/config.json", "tune/final/adapter_config.json", "tune/step/state.json"]):
        (tmp_path / "run" / name).parent.mkdir(parents=True)
        (tmp_path / "run" / name).write_text("{}")
        os.utime((tmp_path / "run" / name).parent, (age, age))
    (tmp_path / "run/recipe.yaml").write_text("system: any\n")
    return tmp_path / "run"


COMMANDS = {
    "answer": ["answer", "RUN", "--question", "What?"],
    "convert": ["convert", "RUN", "out"],
    "convert --explain": ["convert", "RUN", "--explain"],
    "evaluate": ["evaluate", "RUN", "--out", "out"],
    "evaluate --benchmark": ["evaluate", "RUN", "--out", "out", "--benchmark", "world_qa", "--data", "."],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_names_the_results_of_a_run(name, trained, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word.replace("RUN", str(trained)) for word in COMMANDS[name]]
    assert run(words) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert f"below it are checkpoints: {trained}/tune/final, {trained}/align/final" in message, message


def test_python_names_them_too(trained: Path) -> None:
    for call in (lambda: vidtune.load(trained), lambda: vidtune.load(trained / "tune"), lambda: recognise(trained)):
        with pytest.raises(UserError, match=r"below it (is a|are) checkpoints?: .*tune/final"):
            call()


def test_a_saved_step_and_a_run_without_a_result_are_explained(trained: Path) -> None:
    with pytest.raises(UserError, match=r"saved step.*continues; the result of its stage is .*tune/final"):
        require_checkpoint(trained / "tune/step")
    for result in trained.glob("*/final/*"):
        result.unlink()
    with pytest.raises(UserError, match=r"saved step, from which the same vidtune train command continues$"):
        require_checkpoint(trained / "tune/step")
    with pytest.raises(UserError, match="whose first stage has not ended: continue it with vidtune train"):
        vidtune.load(trained)


def test_what_holds_a_checkpoint_and_what_holds_none_at_all_passes(trained: Path, tmp_path: Path) -> None:
    require_checkpoint(trained / "tune/final")
    (tmp_path / "empty").mkdir()
    require_checkpoint(tmp_path / "empty")
    with pytest.raises(UserError, match=r"no weights found \(looked for"):
        vidtune.load(tmp_path / "empty")


def test_large_folders_are_not_searched_for_long(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearby, "MOST_ENTRIES", 3)
    assert nearby.below(trained, lambda folder: folder.name == "final") == []
    assert nearby.listed([Path(name) for name in "abcdef"]) == "a, b, c, d and 2 more"


@pytest.mark.parametrize("command", ["judge", "report"])
def test_commands_about_evaluations_name_the_runs_below(command, tmp_path, capsys) -> None:
    (tmp_path / "eval/world_qa").mkdir(parents=True)
    (tmp_path / "eval/world_qa/run.json").write_text("{}")
    assert run([command, str(tmp_path / "eval")]) == 2
    assert f"give one of those below it: {tmp_path}/eval/world_qa\n" in capsys.readouterr().err
