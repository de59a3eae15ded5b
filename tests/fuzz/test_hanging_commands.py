"""What the harness says of a command that is not done at the limit: training that goes on is told from a hang."""

import signal
from collections.abc import Callable
from pathlib import Path

import forked
import pytest

STEP = "stopped by SIGINT after step 2 of 9 of stage 'align', saved in run/align/checkpoint-2; run the command again"
BEFORE = "stopped by SIGINT before stage 'align'; nothing is saved yet"


def _compute() -> int:
    while True:
        pass


def _leaving(line: str, code: int) -> Callable[[], int]:
    def compute_until_asked() -> int:
        asked: list[int] = []
        signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
        while not asked:
            pass
        print(line)
        return code

    return compute_until_asked


@pytest.mark.parametrize(
    ("work", "outcome"),
    [
        (_compute, "hang"),
        (_leaving(STEP, 130), "training"),
        (_leaving(STEP, 0), "hang"),
        (_leaving(BEFORE, 130), "hang"),
    ],
    ids=["endless", "training", "another exit code", "no step"],
)
def test_a_command_that_leaves_after_a_step_was_training(
    work: Callable[[], int], outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked, "COMPUTING", 0.2)
    for name in ("end_workers", "share_workers"):
        monkeypatch.setattr(forked, name, lambda: None)
    (tmp_path / "case").mkdir()
    assert forked.run_forked(work, tmp_path / "case", "recipe.yaml").outcome == outcome
