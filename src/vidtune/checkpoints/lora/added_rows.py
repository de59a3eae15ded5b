"""Rows of added tokens in the embedding and the head of a language model.

Legend: A added tokens, V vocabulary, D language-model width.
"""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vidtune.checkpoints.files.tensors import require_floating
from vidtune.errors import UserError
from vidtune.models.config import ADDED_TOKENS, VideoLMConfig
from vidtune.models.initial import LINEAR_STD, without_values
from vidtune.models.language_model.families import family_of
from vidtune.models.language_model.token_rows import TokenRows
from vidtune.models.video_lm import VideoLM
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
    rows = config.text_config.vocab_size
    grown = dict(state)
    for name in weights_with_rows(config):
        old = grown.get(name)
        if old is None:
            continue
        new = [t for t in tokens if t.text not in has_rows or config.added_tokens[t.text] >= len(old)]
        first = min((config.added_tokens[token.text] for token in new), default=rows)
        if new and first <= len(old) <= rows:  # else the file contradicts its config, which is said later
            whole = old.new_zeros(rows, *old.shape[1:])
            whole[: len(old)] = old
            mean = old[:first].float().mean(0)
            for token in new:
                id = config.added_tokens[token.text]
                whole[id] = _start(token, mean, f"{name} {id}")
            grown[name] = whole
    return grown


def _start(token: AddedToken, mean: Tensor, place: str) -> Tensor:
    """Start value of a row; a normal one is drawn by the place of the row alone."""
    if token.start == "mean":
        return mean
    if token.start == "zeros":
        return torch.zeros_like(mean)
    seed = int.from_bytes(hashlib.sha256(place.encode()).digest()[:7], "big")
    return LINEAR_STD * torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))


def weights_with_rows(config: VideoLMConfig) -> list[str]:
    """Return our names of the weights of a model's language model that have a row for each token."""
    with without_values():
        language_model: PreTrainedModel = family_of(config.text_config).build(config.text_config)
    layers = (language_model.get_input_embeddings(), language_model.get_output_embeddings())
    wanted = {id(weight) for layer in layers if layer is not None for weight in layer.parameters()}
    named = language_model.named_parameters(remove_duplicate=False)
    return [f"language_model.{name}" for name, weight in named if id(weight) in wanted]


def split_rows(model: VideoLM) -> None:
    """Make the rows of the added tokens parameters of their own, the component ``language_model.added_tokens``."""
    ids = model.config.added_tokens
    rows = TokenRows(model.language_model, list(ids.values()), _predicted(model.config))
    setattr(model.language_model, ADDED_TOKENS.rpartition(".")[2], rows)


def joined_rows(state: Mapping[str, Tensor], model: VideoLM) -> dict[str, Tensor]:
    """Return the weights of a model with the rows of its added tokens put back into the matrices, rounded to their
    dtype; tensors of ``state`` stay as they are.

    Args:
        model: says which tensors these are; its own weights are not read.
    """
    joined = dict(state)
    for key, (names, ids) in row_places(model).items():
        rows, held = joined.pop(key, None), [name for name in names if name in joined]
        if rows is not None:
            matrix = joined[held[0]]
            joined |= dict.fromkeys(held, matrix.index_copy(0, torch.tensor(ids), rows.to(matrix.dtype)))
    return joined


@torch.no_grad()
def put_rows(model: VideoLM, found: Mapping[str, Tensor], where: str | Path) -> None:
    """Write rows of added tokens into the weights of a model, in place.

    Args:
        found: rows by the names of their component; only these rows, (A, D), or whole matrices, (V, D), of which the
            other rows are left out. A whole matrix may end with the last added token, before spare rows.
        where: path for error messages.

    Raises:
        UserError: the model has no such tokens, or rows of another number or width.
    """
    parameters, places = dict(model.named_parameters(remove_duplicate=False)), row_places(model)
    last = max(model.config.added_tokens.values(), default=-1)
    for key, rows in found.items():
        if key not in places:
            raise UserError(f"{where}: holds {key}, but the model of system {model.config.system} has no such rows")
        require_floating(key, rows, where)
        (name, *_), ids = places[key]
        weight = parameters[name]
        if rows.ndim == 2 and len(rows) != len(ids) and len(rows) in (len(weight), last + 1):
            rows = rows[ids]
        if rows.shape != (len(ids), weight.shape[1]):
            raise UserError(
                f"{where}: {key}: shape {tuple(rows.shape)}; expected {len(ids)} rows of width {weight.shape[1]}, "
                f"or a matrix with all {len(weight)}"
            )
        weight[ids] = rows.to(weight)


def rows_of(model: VideoLM, whole: bool = False) -> dict[str, Tensor]:
    """Return the rows of the added tokens by the names of their component, the inverse of :func:`put_rows`.

    Args:
        whole: return whole matrices.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    places = row_places(model).items()
    return {key: parameters[names[0]].detach()[slice(None) if whole else ids] for key, (names, ids) in places}


def row_places(model: VideoLM) -> dict[str, tuple[list[str], list[int]]]:
    """Return, for each weight of the component, the names of the matrix that its rows belong to, and their ids."""
    language_model = model.language_model
    named = list(model.named_parameters(remove_duplicate=False))
    layers = {"input": language_model.get_input_embeddings(), "output": language_model.get_output_embeddings()}
    matrices = {
        side: [] if layer is None else [name for name, weight in named if weight is layer.weight]
        for side, layer in layers.items()
    }
    ids = {"input": list(model.config.added_tokens.values()), "output": _predicted(model.config)}
    if matrices["output"] == matrices["input"]:
        ids["output"] = []
    return {f"{ADDED_TOKENS}.{side}": (matrices[side], ids[side]) for side in ids if matrices[side] and ids[side]}


def _predicted(config: VideoLMConfig) -> list[int]:
    """Ids, in order, of the added tokens that the model has to predict."""
    return sorted(config.added_tokens[t.text] for t in SYSTEMS[config.system].dialect.added_tokens if t.predicted)
