"""The log and the console of a real run."""

import json
import math
import re

import pytest

from vidtune.training import log
from vidtune.training.run import train_stages as train
from vidtune.training.signals import TrainingInterrupted

PEAK = 1e9


def test_a_run_logs_what_is_documented_and_goes_on_after_a_stop(make_recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("vidtune.training.step.peak_flops", lambda device, precision: PEAK)
    recipe = make_recipe(train={"connectors": 1e-2, "language_model": 1e-3}, epochs=2, workers=0)
    with pytest.raises(TrainingInterrupted):
        train(recipe, tmp_path / "out", stop_after=3)
    train(recipe, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out/align/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    named = set(re.findall(r"\b[a-z_]+\b", log.__doc__.partition("Keys of a line:")[2]))
    for line in lines:
        assert set(line) <= named, set(line) - named
        parts = {name: norm for name, norm in line["gradient_norm"].items() if name != "total"}
        assert set(parts) == set(line["learning_rate"]) == {"connectors.visual", "language_model"}
        assert line["gradient_norm"]["total"] == pytest.approx(math.hypot(*parts.values()))
        assert line["ranks"] == 1 and line["data_wait"] >= 0 and line["memory_gib"] > 0
        flops_per_token = line["mfu"] * PEAK * line["seconds"] / line["tokens"]
        # Six for each of the language model's weights outside embeddings, and something for the towers.
        assert 6 * 2 * (4 * 32 * 32 + 3 * 32 * 64) < flops_per_token < 1e6
    shown = capfd.readouterr().err
    last = [line for line in shown.splitlines() if line.startswith(f"align {len(lines)}/{len(lines)}")]
    assert len(last) == 1 and "MFU" in last[0] and "norm" in last[0] and "data wait" in last[0], shown
