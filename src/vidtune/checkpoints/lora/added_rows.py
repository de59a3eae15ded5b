"""Rows of added tokens in the embedding and the head of a language model.

Legend: A added tokens, V vocabulary, D language-model width.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from vidtune.models.config import VideoLMConfig
from vidtune.models.initial import LINEAR_STD
from vidtune.processing.added_tokens import AddedToken
from vidtune.registry import SYSTEMS


def with_new_rows(state: Mapping[str, Tensor], config: VideoLMConfig, has_rows: Collection[str]) -> dict[str, Tensor]:
    """Return the weights of a language model with rows for the tokens that the system adds.

    Spare rows are used where there are some; they get start values too.

    Args:
        state: weights below ``language_model``, as the file has them.
        config: config of the model, with the vocabulary that it is to have.
        has_rows: tokens whose rows in the file were trained.
    """
    tokens = SYSTEMS[config.system].dialect.added_tokens
    with torch.device("meta"):
        language_model = AutoModelForCausalLM.from_config(config.text_config)
    rows = config.text_config.vocab_size
    grown = dict(state)
    for name in (f"language_model.{name}" for name in _weights_with_rows(language_model)):
        old = grown.get(name)
        if old is None:
            continue
        new = [t for t in tokens if t.text not in has_rows or config.added_tokens[t.text] >= len(old)]
        first = min((config.added_tokens[token.text] for token in new), default=rows)
        if new and first <= len(old) <= rows:  # else the file contradicts its config, which is said later
            whole = old.new_zeros(rows, *old.shape[1:])
            whole[: len(old)] = old
            for token in new:
                whole[config.added_tokens[token.text]] = _start(token, old[:first], config.added_tokens[token.text])
            grown[name] = whole
    return grown


def _start(token: AddedToken, before: Tensor, seed: int) -> Tensor:
    if token.start == "mean":
        return before.float().mean(0)
    if token.start == "zeros":
        return before.new_zeros(before.shape[1:])
    return LINEAR_STD * torch.randn(before.shape[1:], generator=torch.Generator().manual_seed(seed))


def _weights_with_rows(language_model: nn.Module) -> list[str]:
    """Names of the weights of a language model that have a row for each token."""
    layers = (language_model.get_input_embeddings(), language_model.get_output_embeddings())
    wanted = {id(weight) for layer in layers if layer is not None for weight in layer.parameters()}
    return [name for name, weight in language_model.named_parameters(remove_duplicate=False) if id(weight) in wanted]
