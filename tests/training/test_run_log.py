"""The log and the console of a real run."""

import json
import math
import re

import pytest
from launched import with_settings
from training_world import conversation

from vidtune.training import log
from vidtune.training.run import train_stages as train
from vidtune.training.signals import TrainingInterrupted
from vidtune.training.trackers.console import summary

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


def measured(line: dict) -> dict:
    """A log line without what depends on the clock and the machine."""
    return {
        key: value
        for key, value in line.items()
        if key not in ("seconds", "tokens_per_second", "data_wait", "memory_gib")
    }


def test_the_log_of_a_run_stopped_twice_is_that_of_the_run_never_stopped(make_recipe, tmp_path, monkeypatch, capfd):
    sent = []
    monkeypatch.setattr("vidtune.training.loop.open_trackers", lambda *args: Sent(sent))
    samples = [conversation("Say it.", "one two three four"[: 4 * n + 3]) for n in range(4)]
    recipe = make_recipe(samples, train={"language_model": 1e-3}, global_batch_size=1, max_steps=5, log_every=3)
    recipe = with_settings(recipe, workers=0)
    train(recipe, tmp_path / "whole", progress=False)
    whole = logged(tmp_path / "whole")
    assert [(line["step"], line["samples"]) for line in whole] == [(3, 3), (5, 2)]
    shown = [summary(line).partition("  norm")[0] for line in whole]
    sent.clear()
    for _ in range(2):
        with pytest.raises(TrainingInterrupted):
            train(recipe, tmp_path / "stopped", stop_after=2, progress=False)
    state = tmp_path / "stopped/align/checkpoint-4/state.json"
    state.write_text(re.sub(r'"transformers": "[^"]*"', '"transformers": "4.0.0"', state.read_text()))
    train(recipe, tmp_path / "stopped", progress=False)
    assert "checkpoint-4 goes on with transformers 4.0.0 -> " in capfd.readouterr().err
    stopped = logged(tmp_path / "stopped")
    assert list(map(measured, stopped)) == list(map(measured, whole))
    assert [summary(line).partition("  norm")[0] for line in stopped] == shown
    assert [(step, values["loss"]) for step, values in sent] == [(line["step"], line["loss"]) for line in whole]
    assert all(line["seconds"] > 0 for line in stopped)


class Sent:
    """A tracker that remembers."""

    def __init__(self, lines: list) -> None:
        self.lines = lines

    def log(self, step: int, values: dict) -> None:
        self.lines.append((step, values))

    def close(self) -> None:
        pass


def logged(out) -> list[dict]:
    return [json.loads(line) for line in (out / "align/log.jsonl").read_text().splitlines()]
