"""What lies beside published weights is read too: ids, processors; a language model inside another model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up_system import system_like
from safetensors.torch import load_file, save_file
from tiny_models import TOKENIZER, tiny_model
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
)

from vidtune.checkpoints.build import build_config, build_model
from vidtune.checkpoints.fit_processor import build_processor
from vidtune.checkpoints.load import Checkpoint, load_checkpoint
from vidtune.checkpoints.report import LoadReport
from vidtune.checkpoints.write import save_checkpoint
from vidtune.errors import UserError
from vidtune.generation.stopping import eos_ids
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS

D = 32
SIZES = {"hidden_size": D, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
GENERATION = {"eos_token_id": [2, 7], "pad_token_id": 5, "temperature": 0.9, "top_p": 0.6}


def write_whole(folder: Path, format: str = "official") -> Path:
    model = tiny_model()
    processor = build_processor(model.config, str(Path(TOKENIZER).parent))
    save_checkpoint(Checkpoint(model, processor, LoadReport("memory")), folder, format)
    return folder


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beside") / "llm"
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, num_key_value_heads=2, vocab_size=560)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    (folder / "generation_config.json").write_text(json.dumps({**GENERATION, "eos_token_id": 9}))
    return folder


def test_ids_of_a_generation_config_are_read_and_settings_are_not(llm, tmp_path):
    whole = write_whole(tmp_path / "whole")
    (whole / "generation_config.json").write_text(json.dumps(GENERATION))
    loaded = load_checkpoint(whole)
    assert loaded.model.generation_config.eos_token_id == [2, 7] and 7 in eos_ids(
        loaded.model.generation_config, loaded.processor.tokenizer
    )
    assert loaded.model.generation_config.pad_token_id == 5
    assert loaded.model.generation_config.temperature != 0.9
    save_checkpoint(loaded, tmp_path / "ours")
    assert load_checkpoint(tmp_path / "ours").model.generation_config.eos_token_id == [2, 7]
    parts = build_model(Recipe(system="longvale", language_model=str(llm)))
    assert parts.generation_config.eos_token_id == 9


def test_broken_ids_are_one_line(tmp_path):
    whole = write_whole(tmp_path / "whole")
    (whole / "generation_config.json").write_text(json.dumps({"eos_token_id": "</s>"}))
    with pytest.raises(UserError, match=r"generation_config\.json: eos_token_id is '</s>'; expected the id of a token"):
        load_checkpoint(whole)


def test_processor_beside_the_weights_is_read(tmp_path):
    def read(files, config):
        size = config.tower("image").input_shape()[-1]
        chosen = SYSTEMS["video_llava"].architecture.preprocessing(config)["image"]
        return {
            "image": chosen.model_copy(update={"size": size, "antialias": files["preprocessor_config.json"]["clean"]})
        }

    whole = write_whole(tmp_path / "whole")
    official = replace(SYSTEMS["video_llava"].publication.formats[0], read_preprocessing=read)
    with system_like("video_llava", "with_processor", formats=(official,)):
        plain = load_checkpoint(whole, system="with_processor").processor.preprocessing
        (whole / "preprocessor_config.json").write_text(json.dumps({"clean": True}))
        changed = load_checkpoint(whole, system="with_processor").processor.preprocessing
        assert (plain["image"].antialias, changed["image"].antialias) == (False, True)
        assert changed["video"] == plain["video"]
        (whole / "preprocessor_config.json").write_text("{}")
        with pytest.raises(UserError, match=r"whole: preprocessor_config\.json: does not tell 'clean'"):
            load_checkpoint(whole, system="with_processor")


def write_multimodal(folder: Path, tied: bool, family: type = Qwen2Config, newer: bool = False) -> torch.nn.Module:
    """Write a model of images and text, with the names of older or newer releases. Returns its language model."""
    torch.manual_seed(1)
    text = family(**SIZES, num_key_value_heads=2, vocab_size=560, tie_word_embeddings=tied)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**sizes, image_size=28, patch_size=14)
    whole = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision.to_dict(), text_config=text.to_dict(), tie_word_embeddings=tied)
    )
    whole.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    del settings["text_config"]["tie_word_embeddings"]  # the outer config decides
    (folder / "config.json").write_text(json.dumps(settings))
    if newer:
        state = load_file(folder / "model.safetensors")
        renamed = {name.replace("language_model.model.", "model.language_model."): t for name, t in state.items()}
        renamed = {name.replace("language_model.lm_head.", "lm_head."): t for name, t in renamed.items()}
        save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    return whole.eval()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("newer", [False, True], ids=["older names", "newer names"])
def test_language_model_inside_a_published_model_is_taken(newer, tied, tmp_path):
    theirs = write_multimodal(tmp_path / "llava", tied, newer=newer)
    recipe = Recipe(system="longvale", language_model=str(tmp_path / "llava"))
    reports: list = []
    model = build_model(recipe, reports=reports).eval()
    assert model.config.text_config.model_type == "qwen2" and model.config.text_config.tie_word_embeddings == tied
    assert build_config(recipe).text_config.vocab_size == 560
    ids = torch.randint(3, 560, (1, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(model.language_model(ids).logits, theirs(ids).logits)
    (report,) = reports
    assert report.left_out["the model around the language model"] > 10


def test_language_model_of_a_model_of_ours_is_taken(tmp_path):
    write_whole(tmp_path / "ours", "vidtune")
    stored = load_checkpoint(tmp_path / "ours").model.language_model.state_dict()
    taken = build_model(Recipe(system="longvale", language_model=str(tmp_path / "ours"))).language_model.state_dict()
    assert list(taken) == list(stored) and all(torch.equal(tensor, stored[name]) for name, tensor in taken.items())


def test_projector_stands_on_a_language_model_inside_another_model(tmp_path):
    theirs = write_multimodal(tmp_path / "llava", tied=False, family=LlamaConfig)
    torch.save({"mm_projector.weight": torch.randn(D, 768), "mm_projector.bias": torch.randn(D)}, tmp_path / "p.bin")
    loaded = load_checkpoint(tmp_path / "p.bin", base=str(tmp_path / "llava"))
    assert torch.equal(loaded.model.language_model.lm_head.weight, theirs.lm_head.weight)
    assert loaded.processor.tokenizer.name_or_path == str(tmp_path / "llava")


def test_model_without_a_language_model_is_refused(tmp_path):
    (tmp_path / "vision").mkdir()
    (tmp_path / "vision/config.json").write_text(json.dumps({"model_type": "clip_vision_model"}))
    shutil.copy(TOKENIZER, tmp_path / "vision/tokenizer.model")
    with pytest.raises(UserError, match=r"vision: holds no language model \(a clip_vision_model has no vocabulary\)"):
        build_model(Recipe(system="longvale", language_model=str(tmp_path / "vision")))
