"""Tokens that a system adds: their ids, their rows in the language model, and what is refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from marked_system import MARKED, TEXTS, TOKENS, marked_system
from tiny_language_models import byte_tokenizer
from tiny_models import TOKENIZER, TOWER
from transformers import AutoConfig, AutoModelForCausalLM, LlamaTokenizer

from vidtune.checkpoints.build import build_model
from vidtune.checkpoints.fit_processor import build_processor, recipe_processor
from vidtune.checkpoints.load import Checkpoint, load_checkpoint
from vidtune.checkpoints.report import LoadReport
from vidtune.checkpoints.write import save_checkpoint
from vidtune.errors import UserError
from vidtune.models.video_lm import VideoLM
from vidtune.processing.added_tokens import AddedToken
from vidtune.processing.tokenizer import load_tokenizer
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 128}
TOWERS = {"image": TOWER, "video": {**TOWER, "num_frames": 2}}


@pytest.fixture(autouse=True)
def system() -> Iterator[None]:
    with marked_system():
        yield


def write_language_model(folder: Path, rows: int, tokenizer=None, kind: str = "llama", **sizes) -> Path:
    torch.manual_seed(1)
    config = AutoConfig.for_model(kind, **SIZES, **sizes, vocab_size=rows)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    if tokenizer is None:
        shutil.copy(TOKENIZER, folder / "tokenizer.model")
    else:
        tokenizer.save_pretrained(folder)
    return folder


def llama_tokens() -> int:
    return len(LlamaTokenizer.from_pretrained(str(TOKENIZER.parent)))


def recipe(language_model, **parts) -> Recipe:
    return Recipe(system=MARKED, language_model=language_model, towers=TOWERS, **parts)


def rows(model: VideoLM) -> tuple[torch.Tensor, torch.Tensor]:
    return model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()


def checkpoint(model: VideoLM, tokenizer) -> Checkpoint:
    return Checkpoint(model, build_processor(model.config, tokenizer), LoadReport("memory"))


@pytest.mark.parametrize("tied", [False, True])
def test_a_vocabulary_that_is_too_small_grows_and_each_row_has_its_start_value(tmp_path, tied):
    count = llama_tokens()
    folder = write_language_model(tmp_path / "llm", count, tie_word_embeddings=tied)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    model = build_model(recipe(str(folder)))
    assert model.config.added_tokens == {text: count + k for k, text in enumerate(TEXTS)}
    assert model.config.text_config.vocab_size == count + 3
    assert list(model.config.placeholder_ids.values()) == [count + 3, count + 4]
    for grown, old in zip(rows(model), (plain.get_input_embeddings(), plain.get_output_embeddings()), strict=True):
        assert grown.shape[0] == count + 3 and torch.equal(grown[:count], old.weight)
        torch.testing.assert_close(grown[count], old.weight.mean(0))
        torch.testing.assert_close(grown[count + 2], old.weight.mean(0))
        assert 0.01 < grown[count + 1].std() < 0.03
    assert (rows(model)[0] is rows(model)[1]) or not tied or rows(model)[0].data_ptr() == rows(model)[1].data_ptr()
    again = build_model(recipe(str(folder)))
    assert all(torch.equal(one, other) for one, other in zip(rows(model), rows(again), strict=True))


def test_spare_rows_are_used_and_start_anew(tmp_path):
    folder = write_language_model(tmp_path / "llm", 300, byte_tokenizer(), "qwen2")
    plain = AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight
    model, first = build_model(recipe(str(folder))), len(load_tokenizer(folder))
    assert model.config.added_tokens == {text: first + k for k, text in enumerate(TEXTS)}
    assert model.config.text_config.vocab_size == 300 == len(rows(model)[0])
    torch.testing.assert_close(rows(model)[0][first], plain[:first].mean(0))
    assert torch.equal(rows(model)[0][first + 3 :], plain[first + 3 :])


def test_rows_of_tokens_that_the_language_model_knows_already_are_kept(tmp_path):
    tokenizer = LlamaTokenizer.from_pretrained(str(TOKENIZER.parent))
    tokenizer.add_tokens(list(TEXTS[:2]), special_tokens=True)
    count = llama_tokens()
    folder = write_language_model(tmp_path / "llm", count + 2, tokenizer)
    plain = AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight
    model = build_model(recipe(str(folder)))
    assert torch.equal(rows(model)[0][count : count + 2], plain[count:])
    torch.testing.assert_close(rows(model)[0][count + 2], plain.mean(0))


def test_added_tokens_are_one_token_each_and_special_ones_are_not_shown(tmp_path):
    folder = write_language_model(tmp_path / "llm", llama_tokens())
    model = build_model(recipe(str(folder)))
    processor = build_processor(model.config, folder)
    ids = processor.chunk_tokenizer("a<vid_start><vid_patch><vid_end>b").ids
    assert [token for token in ids if token >= llama_tokens()] == list(model.config.added_tokens.values())
    assert processor.decode(ids).replace(" ", "") == "a<vid_end>b"


def test_a_saved_model_knows_its_tokens(tmp_path):
    folder = write_language_model(tmp_path / "llm", llama_tokens())
    model = build_model(recipe(str(folder)))
    save_checkpoint(checkpoint(model, folder), tmp_path / "saved")
    loaded = load_checkpoint(tmp_path / "saved")
    assert loaded.model.config.added_tokens == model.config.added_tokens
    assert loaded.processor.tokenizer.convert_tokens_to_ids(list(TEXTS)) == list(model.config.added_tokens.values())
    assert all(torch.equal(one, other) for one, other in zip(rows(model), rows(loaded.model), strict=True))
    other = load_checkpoint(tmp_path / "saved", tokenizer=str(folder))  # the plain one: gets the tokens
    assert other.processor.tokenizer.convert_tokens_to_ids(list(TEXTS)) == list(model.config.added_tokens.values())


def test_a_language_model_from_sizes_has_rows_for_the_added_tokens(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path)
    made = build_model(recipe({"model_type": "llama", **SIZES}, tokenizer=str(tmp_path)))
    given = build_model(recipe({"model_type": "llama", **SIZES, "vocab_size": 258}, tokenizer=str(tmp_path)))
    assert made.config.text_config.vocab_size == given.config.text_config.vocab_size == 261


def test_a_system_without_added_tokens_says_nothing_of_them_in_its_config():
    made = AutoConfig.for_model("llama", **SIZES)
    config = SYSTEMS["video_llava"].architecture.build_config(made, TOWERS, {})
    assert "added_tokens" not in json.loads(config.to_json_string())


def test_a_tokenizer_that_is_longer_than_the_language_model_is_refused(tmp_path):
    folder = write_language_model(tmp_path / "llm", llama_tokens() - 1)
    for system in (MARKED, "video_llava"):
        named = Recipe(system=system, language_model=str(folder), towers=TOWERS)
        with pytest.raises(UserError, match=rf"llm: the tokenizer has {llama_tokens()} tokens, .* rows for"):
            recipe_processor(named, build_model(named).config)


def test_a_whole_checkpoint_whose_tokenizer_lacks_the_tokens_is_refused(tmp_path):
    folder = write_language_model(tmp_path / "llm", llama_tokens())
    model = build_model(recipe(str(folder)))
    save_checkpoint(checkpoint(model, folder), tmp_path / "saved")
    for file in (tmp_path / "saved").glob("*token*"):
        if file.name != "processor_config.json":
            file.unlink()
    shutil.copy(TOKENIZER, tmp_path / "saved/tokenizer.model")
    with pytest.raises(UserError, match="saved: its tokenizer lacks <vid_start>, <vid_patch>, <vid_end>, for which"):
        load_checkpoint(tmp_path / "saved")


def test_a_tokenizer_that_gives_the_tokens_other_ids_is_refused(tmp_path):
    folder = write_language_model(tmp_path / "llm", llama_tokens())
    model = build_model(recipe(str(folder)))
    tokenizer = LlamaTokenizer.from_pretrained(str(folder))
    tokenizer.add_tokens([*reversed(TEXTS)])
    with pytest.raises(
        UserError, match=f"'<vid_start>' has id {llama_tokens() + 2}, but {llama_tokens()} in the model"
    ):
        build_processor(model.config, tokenizer)


def test_start_values_by_option(tmp_path):
    folder = write_language_model(tmp_path / "llm", 258, byte_tokenizer())
    with marked_system("zeros", added_tokens=(AddedToken("<a>", start="zeros"), TOKENS[0])):
        first, second = rows(build_model(recipe(str(folder)).model_copy(update={"system": "zeros"})))[0][258:]
    assert not first.any() and second.any()
