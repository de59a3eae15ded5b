"""The folder of a run: commands that only look at it never write to it."""

import os
import signal
import time
from pathlib import Path

import pytest
from launched import Launcher
from training_world import conversation, mixed_samples

from vidtune.checkpoints.recognise import recognise
from vidtune.cli.main import run as run_command
from vidtune.errors import UserError
from vidtune.recipe.files import dump_recipe
from vidtune.training.inspection.data_check import check_recipe_data
from vidtune.training.inspection.doctor import examine
from vidtune.training.inspection.dry_run import forecast
from vidtune.training.setup.exclusions import ExclusionList
from vidtune.training.setup.run_folder import claimed, folder_to_read

TORN = '{"id": "train:5", "index": 5, "st'


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and modification time of every file, and the modification times of the folders, by path."""
    found = {str(path): (path.read_bytes() if path.is_file() else b"", path) for path in [folder, *folder.rglob("*")]}
    return {name: (data, path.stat().st_mtime_ns) for name, (data, path) in found.items()}


@pytest.mark.whole
def test_dry_run_beside_a_running_trainer_leaves_every_byte_as_it_was(
    make_recipe, launcher: Launcher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [*mixed_samples(), conversation("<video>\nWhat?", "x", video="../../etc/passwd")]
    recipe = make_recipe(
        samples, stages=[{"max_steps": 500, "save_every": 50}, {"name": "tune", "max_length": 62}], workers=0
    )
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    out = tmp_path / "out"
    run = launcher.start(recipe, out)
    run.wait_for_steps(2)
    os.kill(run.processes[0], signal.SIGSTOP)  # in the middle of anything
    while " T " not in Path(f"/proc/{run.processes[0]}/stat").read_text():  # it is stopped a moment later
        time.sleep(0.01)
    try:
        with (out / "align/excluded.jsonl").open("a") as file:
            file.write(TORN)  # as a line that the trainer is writing
        before = content(out)
        assert run_command(["train", str(tmp_path / "recipe.yaml"), "--out", str(out), "--dry-run"]) == 0
        assert "11, 1 left out" in capsys.readouterr().out
        with pytest.raises(UserError, match=f"another process is training into this folder.*{run.processes[0]}"):
            list(check_recipe_data(recipe, out))
        examine(recipe, steps=1, out=out)
        assert content(out) == before
    finally:
        os.kill(run.processes[0], signal.SIGKILL)
        os.kill(run.processes[0], signal.SIGCONT)
        run.exit_codes()


def test_the_doctor_writes_nothing_into_a_run_that_nobody_trains(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe(stages=[{}, {"name": "tune"}], workers=0)
    first = recipe.model_copy(update={"stages": recipe.stages[:1]})
    list(forecast(first, tmp_path))
    before = content(tmp_path)
    assert [Path(name).suffix for name in before].count(".npy") > 1
    examine(recipe, stage="tune", steps=1, out=tmp_path)
    assert content(tmp_path) == before


def test_tables_of_a_dry_run_are_kept_unless_a_process_trains(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe()
    with folder_to_read(tmp_path, recipe) as folder:
        assert folder == tmp_path
    with claimed(tmp_path, recipe), folder_to_read(tmp_path, recipe) as folder:
        assert folder != tmp_path
    assert not folder.exists()
    with folder_to_read(None, recipe) as folder:
        assert folder.is_dir()


def test_a_run_whose_folder_libraries_cannot_open_is_refused_before_it_starts(make_recipe, tmp_path: Path) -> None:
    out = tmp_path / "f\udcff"
    with pytest.raises(UserError, match="its name is no UTF-8 text"), claimed(out, make_recipe([])):
        pass
    assert not out.exists()
    out.mkdir()
    with pytest.raises(UserError, match="its name is no UTF-8 text"):
        recognise(out)


def test_a_list_with_a_torn_line_is_read_as_it_is_and_repaired_by_its_writer_alone(tmp_path: Path) -> None:
    path = tmp_path / "excluded.jsonl"
    path.write_text('{"id": "train:1", "reason": "missing"}\n' + TORN)
    reader = ExclusionList(path)
    assert reader.entries == [] and path.read_text().endswith(TORN)
    reader.merge([{"id": "train:2", "index": 2, "step": 4, "path": None, "reason": "bad"}])
    assert [line[:16] for line in path.read_text().splitlines()] == ['{"id": "train:1"', '{"id": "train:2"']
    assert ExclusionList(path).entries == reader.entries
