"""A LoRA stage on a pretrained chat model whose head is tied and whose heads share keys: trained, loaded, converted."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.load import Checkpoint, load_checkpoint
from vidtune.cli.main import run
from vidtune.data.sample import MediaRef, Sample, Turn
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Batch, pack
from vidtune.processing.processor import VideoLMProcessor
from vidtune.recipe.files import dump_recipe
from vidtune.recipe.types import Recipe

CAPITAL = "What is the capital of France?"


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the bundle that the stage wrote."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    assert run(["train", str(folder / "recipe.yaml"), "--out", str(folder / "out")]) == 0
    return folder / "out/lora/final"


@pytest.fixture(scope="module")
def bundle(trained: Path) -> Checkpoint:
    return load_checkpoint(trained)


def batch(processor: VideoLMProcessor, media: Path) -> Batch:
    """A conversation about the clip."""
    ref = MediaRef("video", str(media / "red.mp4"))
    turns = (Turn("user", "<video>\nWhat moves?"), Turn("assistant", "A red box moves to the right."))
    example = processor.example(Sample("s", turns, (ref,)), "chatml")
    return pack([example], [[processor.preprocessing["video"].load(ref.path)]])


def logits(model: VideoLM, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model(
            batch.input_ids, position_ids=batch.position_ids, cu_seqlens=batch.cu_seqlens, media=batch.media
        ).logits


def answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run(["answer", str(folder), "--question", CAPITAL, "--max-new-tokens", "12"]) == 0
    return capsys.readouterr().out


def test_loss_falls(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained.parent / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]


def test_the_bundle_is_the_adapted_chat_model_and_answers(
    recipe: Recipe, trained: Path, bundle: Checkpoint, media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Paris" in answer(trained, capsys)
    before, after = build_model(recipe).state_dict(), bundle.model.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    layers = bundle.model.config.text_config.num_hidden_layers
    adapted = {name for name in changed if name.startswith("language_model.")}
    assert len(adapted) == 7 * layers and all(name.endswith("_proj.weight") for name in adapted)
    assert changed - adapted and all(name.startswith("connectors.") for name in changed - adapted)
    given = batch(bundle.processor, media)
    assert float((logits(bundle.model, given) - logits(build_model(recipe).eval(), given)).abs().max()) > 0.1


@pytest.mark.parametrize("format", ["vidtune", "official"])
def test_the_merged_model_is_read_back_from_every_whole_format(
    format: str, trained: Path, bundle: Checkpoint, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / format
    assert run(["convert", str(trained), str(out), "--to", format]) == 0
    config = json.loads((out / "config.json").read_text())
    text = config if format == "official" else config["text_config"]
    assert (text["num_attention_heads"], text["num_key_value_heads"]) == (9, 3)
    assert text["tie_word_embeddings"] is True
    stored = [name for path in out.glob("*.safetensors") for name in safe_open(path, "pt").keys()]  # noqa: SIM118
    assert sum("embed_tokens" in name or "lm_head" in name for name in stored) == 1

    read = load_checkpoint(out)
    model = read.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    expected, found = bundle.model.state_dict(), model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    given = batch(bundle.processor, media)
    assert torch.equal(logits(model, given), logits(bundle.model, given))
    if format == "vidtune":
        assert answer(out, capsys) == answer(trained, capsys)
