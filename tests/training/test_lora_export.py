"""LoRA results in the published layout: written, read again with their language model, trained on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from marked_system import MARKED, marked_system
from safetensors.torch import save_file
from training_world import LANGUAGE_MODEL, TOWER

from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.load import load_checkpoint
from vidtune.checkpoints.write import save_checkpoint
from vidtune.errors import UserError
from vidtune.recipe.types import Recipe
from vidtune.training.run import train_stages as train

LORA = {"learning_rate": 1e-2, "lora": {"rank": 4, "alpha": 8}}
TRAIN = {"language_model": LORA, "connectors": 1e-3}
FORMAT = "official_lora"


@pytest.fixture(scope="module")
def published(make_recipe, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A language model and towers as folders of their own."""
    root = tmp_path_factory.mktemp("published")
    model = build_model(make_recipe())
    model.language_model.save_pretrained(root / "llm")
    shutil.copytree(tokenizer, root / "llm", dirs_exist_ok=True)
    for name, tower in model.towers.items():
        (root / name).mkdir()
        weights = {f"vision_model.{key}": value for key, value in tower.state_dict().items()}
        save_file(weights, root / name / "model.safetensors")
        vision = {**TOWER, "patch_size": 14, "hidden_act": "gelu", "add_time_attn": name == "video", "num_frames": 4}
        (root / name / "config.json").write_text(json.dumps({"vision_config": vision}))
    return {name: str(root / name) for name in ("llm", "image", "video")}


def run(recipe: Recipe, published: dict[str, str], out: Path) -> Path:
    """Train a recipe of the test world on the published parts."""
    towers = {name: published[name] for name in ("image", "video")}
    return train(recipe.model_copy(update={"language_model": published["llm"], "towers": towers}), out, progress=False)


@pytest.fixture(scope="module")
def exported(make_recipe, published: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle whose first stage trained the connector, and what it is in the published layout."""
    out = tmp_path_factory.mktemp("run")
    stages = [{"name": "align", "max_steps": 1}, {"name": "tune", "train": TRAIN, "max_steps": 2}]
    bundle = run(make_recipe(stages=stages, workers=0, warmup=0.0), published, out / "out")
    save_checkpoint(load_checkpoint(bundle), out / "exported", FORMAT)
    return bundle, out / "exported"


def state(folder: Path, base: str | None = None) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder, base=base).model.state_dict()


def test_exported_run_read_with_its_language_model_equals_the_bundle(
    exported: tuple[Path, Path], published: dict[str, str]
) -> None:
    bundle, folder = exported
    with pytest.raises(UserError, match="name its language model with --model-base"):
        load_checkpoint(folder)
    ours, theirs = state(bundle), state(folder, published["llm"])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_exported_files_have_the_published_names(exported: tuple[Path, Path], published: dict[str, str]) -> None:
    folder = exported[1]
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.bin",
        "non_lora_trainables.bin",
        "config.json",
    }
    adapter = torch.load(folder / "adapter_model.bin", weights_only=True)
    layers = range(LANGUAGE_MODEL["num_hidden_layers"])
    parts = [f"self_attn.{side}_proj" for side in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    assert set(adapter) == {
        f"base_model.model.model.layers.{layer}.{part}.lora_{side}.weight"
        for layer in layers
        for part in parts
        for side in "AB"
    }
    others = torch.load(folder / "non_lora_trainables.bin", weights_only=True)
    assert set(others) == {
        f"base_model.model.model.mm_projector.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 8, "CAUSAL_LM")
    assert config["base_model_name_or_path"] == published["llm"]
    assert json.loads((folder / "config.json").read_text())["mm_video_tower"] == published["video"]


def test_stage_starts_from_a_published_lora_run_merged(
    make_recipe, exported: tuple[Path, Path], published: dict[str, str], tmp_path: Path
) -> None:
    stage = {"from": str(exported[1]), "train": {"language_model": LORA}, "max_steps": 1, "warmup": 0.5, "workers": 0}
    final = run(make_recipe(stages=[stage]), published, tmp_path / "out")
    # The only step is a warm-up step with rate zero: the second adapter adds nothing yet.
    start, after = state(exported[1], published["llm"]), state(final)
    assert all(torch.equal(tensor, after[name]) for name, tensor in start.items())


def test_bundle_on_weights_that_were_never_published_is_not_exported(
    make_recipe, published: dict[str, str], tmp_path: Path
) -> None:
    tuned = [{"name": "all", "train": {"language_model": 1e-2}}, {"name": "tune", "train": TRAIN}]
    tower = [{"train": {**TRAIN, "towers.video": LORA}}]
    for stages, message in (
        (tuned, r"base has weights of language_model that are not .*llm; .* write the whole model"),
        (tower, r"has an adapter of 'towers.video', which format official_lora cannot hold"),
    ):
        out = tmp_path / str(len(stages))
        bundle = run(make_recipe(stages=stages, max_steps=1, warmup=0.0, workers=0), published, out)
        with pytest.raises(UserError, match=message):
            save_checkpoint(load_checkpoint(bundle), tmp_path / "exported", FORMAT)
        assert not list(tmp_path.glob("exported*"))


def test_checkpoint_without_adapter_is_not_written_as_lora_run(make_recipe, tmp_path: Path) -> None:
    final = train(make_recipe(max_steps=1, workers=0), tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="holds no low-rank adapter, which format official_lora is for"):
        save_checkpoint(load_checkpoint(final), tmp_path / "exported", FORMAT)


def test_exported_run_holds_the_rows_of_added_tokens(make_recipe, published: dict[str, str], tmp_path: Path) -> None:
    train_rows = {**TRAIN, "language_model.added_tokens": 1e-2}
    stage = {"name": "tune", "train": train_rows, "max_steps": 2, "workers": 0, "warmup": 0.0, "weight_decay": 0.5}
    with marked_system():
        recipe = make_recipe(stages=[stage]).model_copy(update={"system": MARKED})
        bundle = run(recipe, published, tmp_path / "out")
        save_checkpoint(load_checkpoint(bundle), tmp_path / "exported", "lora")
        ours, theirs = state(bundle), state(tmp_path / "exported", published["llm"])
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    others = torch.load(tmp_path / "exported/non_lora_trainables.bin", weights_only=True)
    assert len(others["base_model.model.model.embed_tokens.weight"]) == 3
    assert len(others["base_model.model.lm_head.weight"]) == 1
