"""Settings that the config.json of any model of transformers may hold.

Source: `PreTrainedConfig` of transformers 4 and 5.
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from vidtune.checkpoints.files.folder import CheckpointFiles
from vidtune.checkpoints.files.settings import KnownSettings
from vidtune.errors import UserError
from vidtune.models.language_model.families import config_class

QUANTISED = "quantization_config"
_SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"),
    "max_position_embeddings",
)
"""Sizes of every language model of transformers, which divide others or say how much there is."""
_DROPOUT = re.compile(r"(\w+_)?(dropout|pdrop)(_rate|_prob)?")
_DECODING = (
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty"),
    *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "num_return_sequences"),
    *(
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "bad_words_ids",
        "suppress_tokens",
        "forced_bos_token_id",
    ),
    *("begin_suppress_tokens", "forced_eos_token_id", "exponential_decay_length_penalty", "decoder_start_token_id"),
    *("remove_invalid_values", "output_scores", "return_dict_in_generate"),
)
ANY_MODEL = KnownSettings(
    only={
        "pruned_heads": (None, {}),
        "add_cross_attention": (False, None),
        "is_encoder_decoder": (False, None),
        QUANTISED: (None,),
    },
    ignored={
        "what the model is, which its weights tell": ("model_type", "architectures", "auto_map", "_name_or_path"),
        "who wrote it": ("transformers_version", "_commit_hash"),
        "how it is run": (
            *("torch_dtype", "dtype", "torchscript", "use_bfloat16", "_attn_implementation*", "attn_implementation"),
            *("use_cache", "return_dict", "output_attentions", "output_hidden_states", "chunk_size_feed_forward"),
            *("is_decoder", "cross_attention_hidden_size", "tie_encoder_decoder", "tf_legacy_loss"),
        ),
        "settings of classifiers": ("id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params"),
        "settings of the tokenizer": ("tokenizer_class", "prefix", "sep_token_id", "tokenizer_*", "model_max_length"),
        "decoding settings, which the caller gives": _DECODING,
    },
)
"""Settings that the config.json of any model may hold."""


def require_readable(config: Mapping[str, Any], where: Path) -> None:
    """Raise UserError for values in a config.json, or a config inside it, with which no model can be read.

    These are quantised weights, a dtype that torch does not have, and odd numbers.
    """
    if config.get(QUANTISED) is not None:
        raise UserError(
            f"{where}/config.json: has a {QUANTISED}; vidtune reads weights in bfloat16, float16 or float32 only; take "
            "such a checkpoint, or remove the key if it was left over beside such weights"
        )
    for inner in config.values():
        if isinstance(inner, dict):
            require_readable(inner, where)
    for key in ("torch_dtype", "dtype"):
        value = config.get(key)
        name = value.removeprefix("torch.") if isinstance(value, str) else ""
        if (
            value is not None
            and not isinstance(value, dict)
            and not isinstance(getattr(torch, name, None), torch.dtype)
        ):
            raise UserError(f"{where}: config.json: {key} is {value!r}; expected a dtype such as 'bfloat16'")
    try:
        require_usable_numbers(config)
    except ValueError as error:
        raise UserError(f"{where}: config.json: {error}") from None


def require_usable_numbers(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a size of a model that is no positive number, or a dropout that is no share."""
    for key in _SIZES:
        value = config.get(key)
        if isinstance(value, bool | str) or (isinstance(value, int | float) and value <= 0):
            raise ValueError(f"{key} is {value!r}; expected a positive whole number")
    for key, value in config.items():
        if isinstance(value, int | float) and _DROPOUT.fullmatch(key) and not 0 <= value <= 1:
            raise ValueError(f"{key} is {value!r}; expected a number from 0 to 1")


def names_of(config: type[PreTrainedConfig]) -> set[str]:
    """Return the names of the settings that a class of configs of transformers has."""
    names = {field.name for field in fields(config)} | set(config.attribute_map)
    names |= signature(config.__init__).parameters.keys() - {"self", "kwargs"}
    return names | ({"rope_theta", "rope_scaling"} if "rope_parameters" in names else set())


def settings_of(config: type[PreTrainedConfig]) -> KnownSettings:
    """Return the settings that the config.json of such a model may hold."""
    return ANY_MODEL | KnownSettings(read=frozenset(names_of(config) - ANY_MODEL.only.keys()))


def require_one_rotary(config: Mapping[str, Any]) -> None:
    """Raise ValueError where the two places of a config.json that tell its rotary positions contradict each other."""
    parameters, scaling, base = (config.get(key) for key in ("rope_parameters", "rope_scaling", "rope_theta"))
    inner = parameters.get("rope_theta") if isinstance(parameters, dict) else None
    if base is not None and inner is not None and (isinstance(base, bool) or base != inner):
        raise ValueError(f"rope_theta is {base!r}, but {inner!r} in rope_parameters; remove the one that is wrong")
    if not isinstance(parameters, dict) or not isinstance(scaling, dict):
        return
    kinds = [one.get("rope_type", one.get("type", "default")) for one in (parameters, scaling)]
    different = [key for key in parameters.keys() & scaling.keys() if parameters[key] != scaling[key]]
    if kinds[0] != kinds[1] or different:
        raise ValueError(
            f"rope_scaling is {scaling!r}, but rope_parameters {parameters!r}; remove the one that is wrong"
        )


def language_model_notes(files: CheckpointFiles) -> tuple[str, ...]:
    """Return the warning about settings of a language model that transformers leaves out too; empty without any.

    Raises:
        UserError: a setting that any model may have is at a value that vidtune cannot use.
    """
    config = files.config.get("text_config", files.config)
    try:
        known = settings_of(config_class(str(config.get("model_type", ""))))
    except (ValueError, TypeError, AttributeError):  # no language model, which is said when it is read
        return ()
    known.require_values(config, f"{files.path}/config.json")
    unknown = [key for key in config if not known.knows(key)]
    if not unknown:
        return ()
    return (f"{files.path}/config.json: settings that a {config['model_type']} does not have: {', '.join(unknown)}",)
