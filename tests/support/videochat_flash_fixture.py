"""Fixture of VideoChat-Flash: its files, and the tokenizer with which its ids were made."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

COPY = Path(__file__).parents[1] / "parity/fixtures"
FOLDER = Path(os.environ.get("VIDTUNE_PARITY", COPY)) / "videochat_flash"


def read(name: str) -> Any:
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} is not part of this fixture", allow_module_level=True)
    return json.loads(path.read_text()) if path.suffix == ".json" else load_file(path)


def byte_tokenizer(special: dict[str, int]) -> PreTrainedTokenizerFast:
    """Tokenizer of single bytes in the order of GPT-2, and special tokens after them.

    Args:
        special: special token -> id, from 256 without gaps.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = [chr(byte) for byte in printable] + [chr(256 + rank) for rank in range(256 - len(printable))]
    vocab = {character: rank for rank, character in enumerate(characters)}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    for text in sorted(special, key=special.__getitem__):
        backend.add_special_tokens([AddedToken(text, special=True, normalized=False)])
    assert all(backend.token_to_id(text) == id for text, id in special.items())
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )


def text_sizes(config: dict, tower: str) -> dict[str, Any]:
    """Sizes of the language model around a tower of the fixture, "umt" or "iv2"."""
    sizes = {**config["dims"]["llm"], **config["llm_common"]}
    return {**sizes, "num_hidden_layers": config["dims"]["llm_iv2_layers"]} if tower == "iv2" else sizes


def tower_sizes(config: dict, tower: str) -> dict[str, Any]:
    dims = config["dims"][tower]
    hidden = config["internvideo2"]["mlp_hidden"] if tower == "iv2" else 4 * dims["hidden"]
    return {
        "type": {"umt": "umt", "iv2": "internvideo2"}[tower],
        "hidden_size": dims["hidden"],
        "intermediate_size": hidden,
        "num_hidden_layers": dims["depth"] + 1 + config["mm"]["mm_vision_select_layer"],
        "num_attention_heads": dims["heads"],
        "image_size": dims["image_size"],
        "patch_size": dims["patch_size"],
        "clip_frames": dims["frames"],
    }
