"""Whole runs with LoRA stages: stage on stage, resuming, what checkpoints hold, the commands that read the result."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.lora.adapter_files import is_adapter_weight
from vidtune.cli.main import run as run_command
from vidtune.errors import UserError
from vidtune.recipe.types import Recipe
from vidtune.training.run import train_stages as train
from vidtune.training.saving import checkpoints
from vidtune.training.signals import TrainingInterrupted

LORA = {"learning_rate": 2e-2, "lora": {"rank": 4, "alpha": 8, "dropout": 0.2}}
STAGES: list[dict[str, Any]] = [
    {"name": "align", "max_steps": 1, "workers": 0},
    {
        "name": "tune",
        "train": {"connectors": 1e-3, "language_model": LORA},
        "max_steps": 3,
        "gradient_checkpointing": True,
    },
    {"name": "more", "train": {"language_model": LORA}, "max_steps": 2, "workers": 0},
]


def run(recipe: Recipe, out: Path, stop_after: int | None = None) -> Path:
    return train(recipe, out, stop_after=stop_after, progress=False)


def tensors(bundle: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.relative_to(bundle)}:{name}": tensor
        for path in bundle.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


@pytest.fixture(scope="module")
def undisturbed(make_recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    recipe, out = make_recipe(stages=STAGES), tmp_path_factory.mktemp("lora") / "out"
    run(recipe, out)
    return recipe, out


def test_second_lora_stage_stands_on_the_merged_first_one(undisturbed: tuple[Recipe, Path]) -> None:
    _, out = undisturbed
    align, tune, more = (load_checkpoint(out / name / "final").model for name in ("align", "tune", "more"))
    base_sample = load_file(out / "more/final/base_sample.safetensors")
    for name, after in more.named_parameters():
        before = tune.get_parameter(name)
        flat = before.flatten()
        places = torch.arange(min(len(flat), 64)) * (len(flat) - 1) // max(min(len(flat), 64) - 1, 1)
        torch.testing.assert_close(base_sample[name], flat[places].detach(), msg=name)
        adapted = name.startswith("language_model.model.layers") and "proj" in name
        assert torch.equal(before, after) == (not adapted), name
        assert torch.equal(align.get_parameter(name), before) == (not adapted and "connectors" not in name), name


def test_tied_embeddings_stand_in_no_bundle_and_the_next_stage_stands_on_it(make_recipe, tmp_path: Path) -> None:
    recipe = make_recipe(stages=STAGES)
    tied = {**recipe.language_model, "tie_word_embeddings": True}
    run(recipe.model_copy(update={"language_model": tied}), tmp_path / "out")
    for name in ("tune", "more"):
        others = load_file(tmp_path / "out" / name / "final/other_weights.safetensors")
        assert not any(key.startswith("language_model") for key in others)
    more = load_checkpoint(tmp_path / "out/more/final").model.language_model
    assert more.lm_head.weight is more.get_input_embeddings().weight


def test_stopped_and_resumed_lora_run_equals_one_never_stopped(
    undisturbed: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe, whole = undisturbed
    out = tmp_path / "stopped"
    for steps in (2, 3):  # within one LoRA stage, and within the next
        with pytest.raises(TrainingInterrupted):
            run(recipe, out, stop_after=steps)
    saved = checkpoints(out / "tune")[-1]
    held = dcp.FileSystemReader(saved).read_metadata().state_dict_metadata
    names = {name.split("model.", 1)[1] for name in held if name.startswith("weights.")}
    assert any(is_adapter_weight(name) for name in names)
    assert all(is_adapter_weight(name) or name.startswith("connectors.") for name in names)
    final = run(recipe, out)
    for name, tensor in tensors(whole / "more/final").items():
        assert torch.equal(tensors(final)[name], tensor), name


def test_run_that_moved_finds_its_own_base_and_a_lone_bundle_says_what_it_misses(
    undisturbed: tuple[Recipe, Path], tmp_path: Path
) -> None:
    _, out = undisturbed
    expected = load_checkpoint(out / "more/final").model.state_dict()
    moved = shutil.copytree(out, tmp_path / "moved")
    for stage in ("tune", "more"):
        manifest = moved / stage / "final/bundle.json"
        manifest.write_text(manifest.read_text().replace(str(out), "/nowhere"))
    found = load_checkpoint(moved / "more/final").model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    lone = shutil.copytree(moved / "tune/final", tmp_path / "lone")
    with pytest.raises(UserError, match=r"lone: the checkpoint .* is not at /nowhere/align/final; .*--model-base"):
        load_checkpoint(lone)
    with pytest.raises(UserError, match=r"trained on another model than .*; give the right one"):
        load_checkpoint(lone, base=str(moved / "more/final"))
    given = load_checkpoint(lone, base=str(moved / "align/final")).model.state_dict()
    merged = load_checkpoint(out / "tune/final").model.state_dict()
    assert all(torch.equal(tensor, merged[name]) for name, tensor in given.items())


def test_commands_take_a_bundle(
    undisturbed: tuple[Recipe, Path], media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vidtune.cli.convert import convert
    from vidtune.evaluation.checkpoint import open_checkpoint

    final = undisturbed[1] / "more/final"
    convert(str(final), tmp_path / "whole", "vidtune", None, None)
    question = ["--video", str(media / "red.mp4"), "--question", "What moves?", "--max-new-tokens", "4", "--json"]
    capsys.readouterr()
    for checkpoint in (final, tmp_path / "whole"):
        assert run_command(["answer", str(checkpoint), *question, "--device", "cpu"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first == second and first["question"] == "What moves?"
    merged, whole = open_checkpoint(final), load_checkpoint(tmp_path / "whole")
    assert merged.recipe == (final / "recipe.yaml").read_text()
    state = whole.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in merged.checkpoint.model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train": {"language_model": {**LORA, "lora": {"layers": ["qproj"]}}}},
            "train.language_model.lora: .*'q_proj'",
        ),
        ({"quantize": "4bit", "train": {"language_model": 1e-3}}, "quantize: 4bit: train.language_model trains all"),
        (
            {"quantize": "4bit", "parallel": "fsdp2"},
            "quantize: 4bit: weights in few bits cannot be sharded; use parallel: ddp",
        ),
    ],
)
def test_mistakes_of_a_later_stage_are_found_before_the_first_step(
    make_recipe, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    recipe = make_recipe(stages=[{"name": "align", "max_steps": 1}, {"name": "tune", **change}])
    with pytest.raises(UserError, match=f"stage 'tune': {message}"):
        run(recipe, tmp_path / "out")
    assert not (tmp_path / "out/align/final").exists()


def test_missing_bitsandbytes_names_the_command(make_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidtune.models.language_model.quantization.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"quantize: 8bit: needs the package bitsandbytes; pip install bitsandbytes"):
        run(make_recipe(quantize="8bit", train={"language_model": LORA}), tmp_path / "out")


@pytest.mark.parametrize(
    ("bits", "lora"),
    [
        pytest.param("8bit", {"rank": 4}, marks=pytest.mark.whole),
        ("4bit", {"rank": 4}),
        pytest.param("4bit", None, marks=pytest.mark.whole),
    ],
)
def test_parts_train_over_a_base_in_few_bits_and_stand_on_the_whole_one(
    make_recipe, tmp_path: Path, bits: str, lora: dict[str, int] | None
) -> None:
    pytest.importorskip("bitsandbytes")
    train = {"connectors": 1e-2, **({"language_model": {**LORA, "lora": lora}} if lora else {})}
    recipe = make_recipe(quantize=bits, train=train, max_steps=3, workers=0)
    with pytest.raises(TrainingInterrupted):
        run(recipe, tmp_path / "stopped", stop_after=2)
    final, resumed = run(recipe, tmp_path / "out"), run(recipe, tmp_path / "stopped")
    for name, tensor in tensors(final).items():
        assert torch.equal(tensors(resumed)[name], tensor), name
    start, merged = build_model(recipe), load_checkpoint(final).model
    for name, before in start.named_parameters():
        adapted = lora is not None and name.startswith("language_model.model.layers.") and "proj" in name
        changes = adapted or name.startswith("connectors.")
        assert merged.get_parameter(name).dtype == torch.float32
        assert torch.equal(merged.get_parameter(name), before) == (not changes), name
