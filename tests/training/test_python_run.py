"""Training from Python: one call, one result."""

import threading
from pathlib import Path

import pytest

from vidtune.errors import UserError
from vidtune.machine.ranks.launch import LaunchFailed
from vidtune.recipe.files import dump_recipe
from vidtune.training.run import Run, train


def test_a_recipe_file_with_changes_gives_checkpoint_and_log(make_recipe, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(dump_recipe(make_recipe(stages=[{"max_steps": 2}, {"name": "tune", "max_steps": 3}], workers=0)))
    run = train(str(path), ["stages.tune.max_steps=1"], out=str(tmp_path / "run"), progress=False)
    assert run == Run(tmp_path / "run", ("align", "tune"))
    assert run.final == tmp_path / "run/tune/final" and (run.final / "config.json").is_file()
    assert [(line["stage"], line["step"]) for line in run.log] == [("align", 1), ("align", 2), ("tune", 1)]
    assert all(line["loss"] > 0 for line in run.log)


def test_it_runs_in_a_thread_beside_others_and_shows_nothing(make_recipe, tmp_path: Path, capfd) -> None:
    runs: list[Run] = []
    recipe = make_recipe(max_steps=1, workers=0)
    thread = threading.Thread(target=lambda: runs.append(train(recipe, out=tmp_path / "run", progress=False)))
    thread.start()
    thread.join()
    assert runs[0].final.is_dir()
    assert capfd.readouterr() == ("", "")


@pytest.mark.whole
def test_processes_train_together_and_a_mistake_of_theirs_is_raised(make_recipe, tmp_path: Path, capfd) -> None:
    recipe = make_recipe(max_steps=1, workers=0)
    run = train(recipe, out=tmp_path / "run", processes=2, device="cpu", progress=False)
    assert [line["ranks"] for line in run.log] == [2]
    with pytest.raises(LaunchFailed, match="exit code 2") as failed:
        train(make_recipe(max_steps=2, workers=0), out=tmp_path / "run", processes=2, progress=False)
    assert failed.value.exit_code == 2 and "another recipe" in capfd.readouterr().err


def test_a_mistake_in_the_file_is_raised_before_any_process_starts(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("system: video_llava\nstage: []\n")
    with pytest.raises(UserError, match="did you mean 'stages'"):
        train(tmp_path / "mine.yaml", out=tmp_path / "run", processes=2)
