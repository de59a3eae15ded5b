"""Trackers: what they are given, that runs go on after a resume, and that training does not mind their failures."""

import os
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from vidtune.errors import UserError
from vidtune.recipe.types import Recipe
from vidtune.training.log import TrainingLog
from vidtune.training.trackers import background
from vidtune.training.trackers import opening as trackers
from vidtune.training.trackers.base import TrackedRun
from vidtune.training.trackers.opening import KINDS, Kind, check_trackers, open_trackers


class Notebook:
    """A tracker of the test's own."""

    runs: list["Notebook"] = []  # noqa: RUF012

    def __init__(self, run: TrackedRun) -> None:
        self.run, self.seen, self.closed = run, {}, False
        self.runs.append(self)

    def log(self, step, values):
        assert threading.current_thread() is not threading.main_thread()
        assert step not in self.seen
        self.seen[step] = dict(values)

    def close(self):
        self.closed = True


class Broken(Notebook):
    def log(self, step, values):
        super().log(step, values)
        if step in (2, 3):
            raise ConnectionError("no route\nto host")


class Stuck(Notebook):
    def log(self, step, values):
        time.sleep(60)


class Refusing:
    def __init__(self, run: TrackedRun) -> None:
        raise PermissionError("who are you?")


@pytest.fixture
def own(monkeypatch):
    """Register the test's trackers under the names of their classes."""
    Notebook.runs = []
    for kind in (Notebook, Broken, Stuck, Refusing):
        monkeypatch.setitem(KINDS, kind.__name__, Kind("pytest", __name__, kind.__name__))


def a_recipe() -> Recipe:
    data = [{"annotations": "a.json"}]
    stages = [{"name": n, "train": {"connectors": 1e-3}, "data": data, "global_batch_size": 1} for n in ("one", "two")]
    return Recipe.model_validate({"system": "a_house", "language_model": "any", "stages": stages})


def run(names: list[str], folder: Path, first: int, last: int, notes: list[str] | None = None) -> None:
    """Log the steps of one process's life."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = [] if notes is None else notes
    log = TrainingLog(folder, first, open_trackers(names, folder, a_recipe(), first, notes.append))
    for step in range(first + 1, last + 1):
        log.write({"step": step, "loss": 1 / step, "gradient_norm": {"total": 2.0, "connectors.image": 3.0}})
    log.close()


def test_a_tracker_is_given_the_run_and_flat_numbers(own, tmp_path):
    run(["Notebook"], tmp_path / "mine/one", 0, 2)
    (notebook,) = Notebook.runs
    assert notebook.seen[2] == {"loss": 0.5, "gradient_norm/total": 2.0, "gradient_norm/connectors.image": 3.0}
    assert notebook.closed
    assert (notebook.run.project, notebook.run.name) == ("a_house", "mine/one")
    assert notebook.run.config["stages"][0]["train"]["connectors"]["learning_rate"] == 1e-3


def test_a_resumed_run_keeps_its_id_and_is_not_told_twice(own, tmp_path):
    for first, last in ((0, 6), (4, 5), (4, 8)):
        run(["Notebook"], tmp_path / "mine/one", first, last)
    assert len({notebook.run.id for notebook in Notebook.runs}) == 1
    assert [notebook.run.resumed for notebook in Notebook.runs] == [False, True, True]
    assert [list(notebook.seen) for notebook in Notebook.runs] == [[1, 2, 3, 4, 5, 6], [], [7, 8]]
    run(["Notebook"], tmp_path / "mine/two", 0, 1)
    assert Notebook.runs[-1].run.id != Notebook.runs[0].run.id


def test_a_failing_tracker_costs_one_line_and_gets_later_numbers(own, tmp_path):
    notes: list[str] = []
    run(["Broken", "Notebook"], tmp_path / "mine/one", 0, 5, notes)
    assert notes == ["tracker Broken: ConnectionError: no route to host; training goes on, log.jsonl has every number"]
    assert all(list(tracker.seen) == [1, 2, 3, 4, 5] and tracker.closed for tracker in Notebook.runs)
    assert len((tmp_path / "mine/one/log.jsonl").read_text().splitlines()) == 5


def test_a_stuck_tracker_does_not_hold_up_training(own, tmp_path, monkeypatch):
    monkeypatch.setattr(background, "CLOSE_SECONDS", 0.1)
    notes: list[str] = []
    begin = time.monotonic()
    run(["Stuck"], tmp_path / "mine/one", 0, 100, notes)
    assert time.monotonic() - begin < 50
    assert len(notes) == 1 and "did not take everything" in notes[0]


def test_a_tracker_that_does_not_start_stops_a_fresh_run_alone(own, tmp_path):
    with pytest.raises(UserError, match=r"tracker Refusing: does not start: PermissionError: who are you\?; mend"):
        run(["Refusing"], tmp_path / "mine/one", 0, 1)
    for folder, first in ((tmp_path / "mine/one", 5), (tmp_path / "mine/two", 0)):
        notes: list[str] = []
        run(["Refusing"], folder, first, first + 1, notes)
        assert notes == [
            "tracker Refusing: PermissionError: who are you?; training goes on, log.jsonl has every number"
        ]


def test_a_missing_package_is_named_with_its_command(monkeypatch, tmp_path):
    monkeypatch.setitem(KINDS, "wandb", Kind("no_such_package", "x", "X"))
    with pytest.raises(UserError, match=r"pip install 'vidtune\[no_such_package\]'"):
        check_trackers(["tensorboard", "wandb"])
    # What a tracker leaves in the working directory looks like a package without a file.
    (tmp_path / "no_such_package").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError):
        check_trackers(["wandb"])
    check_trackers(["tensorboard"])


def test_every_tracker_of_the_recipe_is_known():
    names = Recipe.model_json_schema()["properties"]["trackers"]["items"]["enum"]
    assert list(trackers.KINDS) == names


def test_tensorboard_purges_what_comes_after_the_checkpoint(tmp_path):
    for first, last in ((0, 6), (4, 8)):
        run(["tensorboard"], tmp_path / "mine/one", first, last)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "mine/one/tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert "gradient_norm/connectors.image" in events.Tags()["scalars"]


def test_wandb_goes_on_with_the_same_offline_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for first, last in ((0, 6), (4, 8)):
        run(["wandb"], tmp_path / "mine/one", first, last)
    runs = list((tmp_path / "mine/one/wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 2 and len({path.name for path in runs}) == 1


def test_mlflow_goes_on_with_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    monkeypatch.chdir(tmp_path)
    for first, last in ((0, 6), (4, 8)):
        run(["mlflow"], tmp_path / "mine/one", first, last)
    with sqlite3.connect(tmp_path / "runs.db") as store:
        steps = store.execute("select step from metrics where key = 'loss' order by step").fetchall()
        params = dict(store.execute("select key, value from params"))
        assert store.execute("select name, status from runs").fetchall() == [("mine/one", "FINISHED")]
    assert [step for (step,) in steps] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert params["stages.0.train.connectors.learning_rate"] == "0.001"


def test_trackio_goes_on_with_the_same_run(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    for first, last in ((0, 6), (4, 8)):
        run(["trackio"], tmp_path / "mine/one", first, last)
    (store,) = (Path(os.environ["TRACKIO_DIR"])).glob("*.db")
    with sqlite3.connect(store) as connection:
        steps = connection.execute("select step from metrics order by step").fetchall()
        assert len(connection.execute("select distinct run_name from metrics").fetchall()) == 1
    assert [step for (step,) in steps] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert capfd.readouterr().out == ""
