"""Decode workers that are killed while they work cost no sample: training ends with the same bytes."""

import json
from pathlib import Path
from typing import Any

import pytest
from killed_decoders import DecoderKiller

from vidtune.training.run import train_stages as train

STEPS = 3


def result(folder: Path) -> dict[str, Any]:
    """The bytes of the weights and what every step made of its samples."""
    (log,) = folder.glob("*/log.jsonl")
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    kept = ("step", "loss", "grad_norm", "samples", "tokens", "supervised_tokens")
    excluded = list(folder.glob("*/excluded.jsonl"))
    return {
        "weights": (log.parent / "final/model.safetensors").read_bytes(),
        "steps": [{key: step[key] for key in kept if key in step} for step in steps],
        "excluded": [path.read_text() for path in excluded],
    }


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.whole)])
def test_killed_decode_workers_change_no_byte_of_the_training(
    make_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    recipe = make_recipe(workers=2, max_steps=STEPS)
    train(recipe, tmp_path / "undisturbed", progress=False)
    killer, runs = DecoderKiller(kills, monkeypatch), 0
    while killer.left and runs < kills:
        runs += 1
        train(recipe, tmp_path / f"disturbed{runs}", progress=False)
        assert result(tmp_path / f"disturbed{runs}") == result(tmp_path / "undisturbed")
    assert killer.left == 0
