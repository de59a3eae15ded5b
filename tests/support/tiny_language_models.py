"""Tiny random language models and tokenizers for the generation tests."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from vidtune.models.language_model.attention import PACKED_ATTENTION, register_attention

register_attention()
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "max_position_embeddings": 512}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(vocab_size=300, num_attention_heads=4, num_key_value_heads=4, **SIZES),
    "qwen2_grouped": Qwen2Config(vocab_size=300, num_attention_heads=4, num_key_value_heads=2, **SIZES),
}


def language_model(name: str) -> PreTrainedModel:
    """A model whose greedy answers vary with the prompt."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation=PACKED_ATTENTION).eval()
    sharpen(model)
    return model


def sharpen(model: torch.nn.Module) -> None:
    """Weights large enough that the most probable token is no close call."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte: ids 0-255 are the bytes, 256 begins and 257 ends a sequence."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    by_byte = {bytes_to_character(byte): byte for byte in range(256)}
    assert sorted(by_byte) == alphabet
    tokenizer = Tokenizer(models.BPE(vocab={**by_byte, "<s>": 256, "</s>": 257}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", add_bos_token=True)


def bytes_to_character(byte: int) -> str:
    """The printable stand-in of a byte in byte-level BPE (GPT-2): itself where printable, else from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + sorted(set(range(256)) - set(printable)).index(byte))
