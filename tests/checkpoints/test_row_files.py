"""Rows of added tokens in published formats: beside a projector, in a LoRA run, in a whole model."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from marked_system import MARKED, TEXTS, marked_system
from tiny_models import TOKENIZER, TOWER
from transformers import AutoConfig, AutoModelForCausalLM, LlamaTokenizer

from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.fit_processor import build_processor
from vidtune.checkpoints.load import Checkpoint, load_checkpoint
from vidtune.checkpoints.report import LoadReport
from vidtune.checkpoints.write import save_checkpoint
from vidtune.errors import UserError
from vidtune.models.video_lm import VideoLM
from vidtune.recipe.types import Recipe

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
COUNT = len(LlamaTokenizer.from_pretrained(str(TOKENIZER.parent)))
TOWERS = {"image": TOWER, "video": {**TOWER, "num_frames": 2, "patch_size": 8}}


@pytest.fixture(autouse=True, scope="module")
def system() -> Iterator[None]:
    with marked_system():
        yield


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES, vocab_size=COUNT)).save_pretrained(folder)
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    return folder


def recipe(language_model: Path, **parts) -> Recipe:
    return Recipe(system=MARKED, language_model=str(language_model), towers=TOWERS, **parts)


@pytest.fixture(scope="module")
def trained(language_model: Path) -> Checkpoint:
    """A model whose rows and connector have changed."""
    model = build_model(recipe(language_model))
    with torch.no_grad():
        for weight, ids in zip(rows(model), (slice(COUNT, None), [COUNT + 2]), strict=True):
            weight[ids] += torch.randn(weight[ids].shape, generator=torch.Generator().manual_seed(2))
        for weight in model.connectors.parameters():
            weight.add_(1)
    return Checkpoint(model, build_processor(model.config, language_model), LoadReport("memory"))


def rows(model: VideoLM) -> tuple[torch.Tensor, torch.Tensor]:
    return model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()


def same_language_model(one: VideoLM, other: VideoLM) -> bool:
    found = other.language_model.state_dict()
    return all(torch.equal(tensor, found[name]) for name, tensor in one.language_model.state_dict().items())


@pytest.mark.parametrize(("format", "number"), [("projector", 3), ("projector_whole", COUNT + 3)])
def test_a_projector_file_holds_the_rows_and_stands_on_the_plain_language_model(
    trained, language_model, tmp_path, format, number
):
    save_checkpoint(trained, tmp_path / "out", format)
    file = tmp_path / "out/mm_projector.bin"
    held = torch.load(file, weights_only=True)
    assert held["model.embed_tokens.weight"].shape == (number, 32)
    assert held["lm_head.weight"].shape == (1 if number == 3 else number, 32)
    made = build_model(recipe(language_model, connectors={"visual": str(file)}))
    assert same_language_model(made, trained.model)
    assert torch.equal(made.connectors["visual"][0].weight, trained.model.connectors["visual"][0].weight)


def test_a_projector_file_is_loaded_on_a_whole_model(trained, language_model, tmp_path):
    save_checkpoint(trained, tmp_path / "out", "projector")
    plain = build_model(recipe(language_model))
    start = Checkpoint(plain, build_processor(plain.config, language_model), LoadReport("memory"))
    save_checkpoint(start, tmp_path / "whole", "official")
    loaded = load_checkpoint(tmp_path / "out/mm_projector.bin", base=str(tmp_path / "whole"), system=MARKED)
    assert same_language_model(loaded.model, trained.model)


def test_whole_matrices_give_only_the_rows(trained, language_model, tmp_path):
    save_checkpoint(trained, tmp_path / "out", "projector_whole")
    file = tmp_path / "out/mm_projector.bin"
    held = torch.load(file, weights_only=True)
    held["model.embed_tokens.weight"] = held["model.embed_tokens.weight"].clone()
    held["model.embed_tokens.weight"][:COUNT] = 0
    torch.save(held, file)
    assert same_language_model(build_model(recipe(language_model, connectors={"visual": str(file)})), trained.model)


def test_a_whole_model_is_written_and_read_with_its_rows_and_tokens(trained, tmp_path):
    save_checkpoint(trained, tmp_path / "out", "official")
    loaded = load_checkpoint(tmp_path / "out")
    assert loaded.model.config.system == MARKED
    assert loaded.model.config.added_tokens == trained.model.config.added_tokens
    assert loaded.processor.tokenizer.convert_tokens_to_ids(list(TEXTS)) == [COUNT, COUNT + 1, COUNT + 2]
    assert same_language_model(loaded.model, trained.model)
    for file in (tmp_path / "out").glob("*token*"):
        file.unlink()
    shutil.copy(TOKENIZER, tmp_path / "out/tokenizer.model")
    with pytest.raises(UserError, match="out: its tokenizer lacks <vid_start>, <vid_patch>, <vid_end>, for which"):
        load_checkpoint(tmp_path / "out")


@pytest.mark.parametrize("number", [2, COUNT, COUNT + 2, COUNT + 4])
def test_rows_of_another_number_are_refused_with_file_and_both_shapes(number, trained, language_model, tmp_path):
    save_checkpoint(trained, tmp_path / "out", "projector")
    file = tmp_path / "out/mm_projector.bin"
    held = torch.load(file, weights_only=True)
    torch.save({**held, "model.embed_tokens.weight": torch.zeros(number, 32)}, file)
    with pytest.raises(
        UserError, match=rf"mm_projector.bin: .*added_tokens.input: shape \({number}, 32\); expected 3 rows"
    ):
        build_model(recipe(language_model, connectors={"visual": str(file)}))
