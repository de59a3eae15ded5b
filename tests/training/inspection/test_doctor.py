"""The doctor on real steps: what it measures is what was made slow, and it leaves no trace."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_world import COLOURS, conversation, mixed_samples

from vidtune.cli.main import run
from vidtune.errors import UserError
from vidtune.recipe.files import dump_recipe
from vidtune.training.inspection.advice import describe, diagnose
from vidtune.training.inspection.doctor import PARTS, examine


@pytest.fixture
def slow_picture(media: Path) -> Iterator[Path]:
    """A picture so large that reading it takes many times longer than reading any other file."""
    path = media / "huge.png"
    Image.fromarray(np.zeros((5000, 5000, 3), np.uint8)).save(path, compress_level=1)
    yield path
    path.unlink()


def test_steps_are_measured_part_by_part_and_nothing_is_left_behind(
    make_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryDirectory", partial(tempfile.TemporaryDirectory, dir=tmp_path))
    found = examine(make_recipe(), steps=3)
    assert (found.steps, found.device, found.workers) == (3, "cpu", 1)
    assert found.samples == 11 - 4 + 4  # the first step of four is not measured; the next epoch begins
    assert set(found.parts) == set(PARTS) and all(seconds > 0 for seconds in found.parts.values())
    assert sum(found.parts.values()) + found.waiting <= found.seconds
    assert all(Path(path).stem in COLOURS for path in found.files)
    assert found.decoding > 0 and found.tokenizing > 0 and found.media_bytes > 0 and not found.failed
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_slow_to_read_is_named(make_recipe, slow_picture: Path) -> None:
    samples = [*mixed_samples(), conversation("<image>\nWhich colour?", "black.", image=slow_picture.name)]
    found = examine(make_recipe(samples), steps=3)
    named = [advice for advice in diagnose(found)[1] if "times the median file" in advice]
    assert len(named) == 1 and named[0].startswith(f"{slow_picture} takes ")
    assert str(slow_picture) in describe(found).split("bottleneck")[0]


@pytest.mark.whole
def test_files_slower_than_the_steps_make_data_the_bottleneck(make_recipe, slow_picture: Path) -> None:
    for number in range(8):
        slow_picture.with_name(f"huge{number}.png").hardlink_to(slow_picture)
    samples = [conversation("<image>\nWhich?", "black.", image=f"huge{number}.png") for number in range(8)]
    found = examine(make_recipe(samples, global_batch_size=2), steps=3)
    for number in range(8):
        slow_picture.with_name(f"huge{number}.png").unlink()
    assert diagnose(found)[0].startswith("data: ")


def test_steps_slower_than_the_files_make_computing_the_bottleneck(make_recipe) -> None:
    words = " ".join(COLOURS)
    samples = [conversation("<image>\nWhich?", f"{words} " * 60, image=f"{colour}.png") for colour in COLOURS]
    everything = {"towers": 1e-3, "connectors": 1e-3, "language_model": 1e-3}
    found = examine(make_recipe(samples, train=everything, max_tokens_per_batch=1024), steps=3)
    assert diagnose(found)[0].startswith("computing: ")


def test_the_command_prints_measurements_and_advice(
    make_recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(make_recipe(workers=0)))
    assert run(["doctor", str(tmp_path / "recipe.yaml"), "--steps", "1", "stages.align.global_batch_size=2"]) == 0
    printed = capsys.readouterr().out
    assert "stage align: 1 steps on cpu" in printed and "2 samples in 1 packs" in printed
    assert "\nbottleneck: " in printed and "1. workers is 0" in printed


def test_no_workers_are_noticed(make_recipe) -> None:
    advice = diagnose(examine(make_recipe(workers=0), steps=1))[1]
    assert any(text.startswith("workers is 0") for text in advice)


def test_another_stage_is_examined_without_the_result_it_starts_from(make_recipe, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    recipe = make_recipe(stages=[{"name": "align"}, {"name": "tune", "train": {"language_model": 1e-3}}])
    found = examine(recipe, stage="tune", steps=1, out=tmp_path / "run")
    assert found.stage.name == "tune"
    assert list((tmp_path / "run").iterdir()) == []
    with pytest.raises(UserError, match="no stage 'tone' in the recipe; did you mean 'tune'"):
        examine(recipe, stage="tone")


def test_samples_that_a_run_leaves_out_are_left_out(make_recipe, tmp_path: Path) -> None:
    (tmp_path / "align").mkdir()
    listed = tmp_path / "align/excluded.jsonl"
    listed.write_text('{"id": "train:0", "source": "train.json", "reason": "missing"}\n')
    before = listed.read_text()
    found = examine(make_recipe(global_batch_size=11, workers=0), steps=1, out=tmp_path)
    assert found.samples == 10
    assert listed.read_text() == before and len(list(tmp_path.rglob("*"))) == 2


def test_when_nothing_can_be_read_the_first_file_is_named(make_recipe) -> None:
    samples = [conversation("<image>\nWhich?", "x", image=f"gone{number}.png") for number in range(4)]
    with pytest.raises(UserError, match=r"no sample of the first steps can be used; .*gone\d.png: file does not exist"):
        examine(make_recipe(samples, workers=0), steps=1)
