"""Files of a run that hold wrong values: one line names the file and the place. A user's files are not deleted."""

import json
from pathlib import Path

import pytest

from vidtune.errors import UserError
from vidtune.training.log import LOG, TrainingLog, last_logged_step, recent_step_seconds
from vidtune.training.saving import remove_unfinished
from vidtune.training.setup.exclusions import ExclusionList
from vidtune.training.state import read_state

STATE = {"step": 3, "plan": {}, "excluded": [], "arithmetic": {}}
ENTRY = {"id": "a:1", "index": 1, "step": 2, "path": None, "reason": "bad"}


@pytest.mark.parametrize("line", ["{}", '{"step": null}', '{"step": 2, "seconds": "x"}'])
def test_a_wrong_line_of_a_log_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / LOG).write_text(f'{{"step": 1, "seconds": 1}}\n{line}\n{{"step": 3, "seconds": 1}}\n')
    for read in (last_logged_step, lambda folder: recent_step_seconds(folder, 5), lambda f: TrainingLog(f, 5)):
        with pytest.raises(UserError, match=r"log\.jsonl: line 2: '.*' is not a number"):
            read(tmp_path)


@pytest.mark.parametrize(
    "line", [{}, {"id": None}, {**ENTRY, "step": None}, {**ENTRY, "more": 1}, {"id": "a", "step": 1}]
)
def test_a_wrong_line_of_the_excluded_samples_is_named(tmp_path: Path, line: dict) -> None:
    path = tmp_path / "excluded.jsonl"
    path.write_text(json.dumps(ENTRY) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(UserError, match=r"excluded\.jsonl: line 2: "):
        ExclusionList(path)


@pytest.mark.parametrize(
    "change",
    [
        {"step": None},
        {"step": 0},
        {"step": True},
        {"plan": None},
        {"excluded": {}},
        {"excluded": [{}]},
        {"excluded": [1]},
    ],
)
def test_a_wrong_state_of_a_checkpoint_is_named(tmp_path: Path, change: dict) -> None:
    (tmp_path / "state.json").write_text(json.dumps(STATE))
    assert read_state(tmp_path)["step"] == 3
    (tmp_path / "state.json").write_text(json.dumps({**STATE, **change}))
    with pytest.raises(UserError, match=r"state\.json: "):
        read_state(tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"state\.json: "):
        read_state(tmp_path)


def test_temporary_names_of_earlier_versions_are_deleted_only_where_they_hold_a_step_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-3.partial").mkdir()
    (tmp_path / "checkpoint-3.partial/__0_0.distcp").touch()
    kept = ["checkpoint-4.partial/notes.txt", "final.partial/mine.txt", "recipe.yaml.partial", "log.jsonl.partial"]
    for name in kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
    assert not (tmp_path / "checkpoint-3.partial").exists()
