"""What the files of a model say of the ids that begin, end and pad a text."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from vidtune.checkpoints.source import Source
from vidtune.errors import UserError
from vidtune.models.video_lm import VideoLM

FILE = "generation_config.json"
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_NO_ID = {"pad_token_id": -1}
"""Ids that stood for none once."""


def take_token_ids(model: VideoLM, source: Source) -> None:
    """Put the ids of a published whole model, language model or difference to one into a model, the uppermost last.

    Decoding settings in these files, such as a temperature, belong to their own programs; ours come from the caller.
    """
    for one in source.steps():
        if one.kind in ("published", "language_model", "delta") and one.files is not None and one.files.has(FILE):
            stored = one.files.json(FILE)
            for name in _IDS:
                if stored.get(name) is not None:
                    setattr(model.generation_config, name, stored[name])


def require_token_ids(source: Source, text_config: PreTrainedConfig) -> None:
    """Refuse ids of tokens that the vocabulary of a model does not have, in each of its files that states them.

    Args:
        text_config: config of the language model.

    Raises:
        UserError: an id is no whole number, or outside the vocabulary; names the file and the key.
    """
    for one in source.steps():
        if one.kind not in ("native", "published", "language_model", "delta") or one.files is None:
            continue
        inner = one.config.get("text_config")
        _require(one.config, text_config, f"{one.path}/config.json: ")
        _require(inner if isinstance(inner, dict) else {}, text_config, f"{one.path}/config.json: text_config.")
        if one.files.has(FILE):
            _require(one.files.json(FILE), text_config, f"{one.path / FILE}: ")


def _require(settings: Mapping[str, Any], text_config: PreTrainedConfig, where: str) -> None:
    """Raise UserError for an id that is not in the vocabulary; that of its class of configs is none of the model's."""
    rows = text_config.vocab_size
    for name in _IDS:
        given = settings.get(name)
        if given is None or (
            not isinstance(given, bool) and given in (getattr(type(text_config), name, None), _NO_ID.get(name))
        ):
            continue
        several = name == "eos_token_id" and isinstance(given, list)
        if not all(type(id) is int and 0 <= id < rows for id in (given if several else [given])):
            expected = "the id of a token, or a list of ids" if name == "eos_token_id" else "the id of a token"
            raise UserError(f"{where}{name} is {given!r}; expected {expected}, from 0 to {rows - 1}")
