"""The settings in ``adapter_config.json`` that are known, and the layers that they name.

Source: ``LoraConfig`` of github.com/huggingface/peft, releases 0.2 to 0.21.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vidtune.checkpoints.files.settings import OFF, KnownSettings
from vidtune.errors import UserError

CONFIG_NAME = "adapter_config.json"
_NUMBERED = r"(?:^|.*?\.){}\.(\d+)\."
"""Name of a layer, of which a pattern names the list that it stands in; the group is its number."""

_NOT_USED = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "loftq_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",
    "monteclora_config",
    "kasa_config",
    "arrow_config",
    "alora_invocation_tokens",
    "megatron_config",
    "ensure_weight_tying",
    "enable_lora",
)
SETTINGS = KnownSettings(
    read=frozenset(
        {"r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"},
    ),
    only={
        "peft_type": ("LORA",),
        "bias": ("none",),
        "use_rslora": (False, True, None),
        # The initialisations that leave the weights of the base as they are.
        "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", "mica"),
        **dict.fromkeys(_NOT_USED, OFF),
    },
    ignored={
        "how the adapter was trained": ("lora_dropout", "inference_mode", "eva_config", "merge_weights"),
        "where it comes from": ("base_model_name_or_path", "revision", "auto_mapping", "peft_version", "task_type"),
        "used with other settings only": ("qalora_group_size", "megatron_core"),
    },
    why={
        "init_lora_weights": "such an adapter was trained on a changed base; write it as plain LoRA with PEFT "
        "(path_initial_model_for_weight_conversion)",
        "peft_type": "other adapters are not low-rank updates of linear layers",
    },
)
"""Settings of an adapter that is plain LoRA: the update of a layer is ``scale * B A``."""


def require_plain(config: Mapping[str, Any], where: str | Path) -> list[str]:
    """Return the unknown settings of an ``adapter_config.json`` that are switched off.

    Args:
        where: folder of the adapter, for the message.

    Raises:
        UserError: it is no plain LoRA, a setting is not known, the rank or the scale is no number, or what names its
            layers cannot be read.
    """
    file = f"{where}/{CONFIG_NAME}"
    unknown = SETTINGS.require({"peft_type": None, **config}, file)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise UserError(f"{file}: r is {rank!r}; expected the rank of the adapter, a positive integer")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise UserError(f"{file}: lora_alpha is {alpha!r}; expected a finite number")
    for key in ("target_modules", "exclude_modules", "layers_pattern"):
        if not _is_names(config.get(key), _NUMBERED if key == "layers_pattern" else "{}"):
            raise UserError(
                f"{file}: {key} is {config[key]!r}; expected a list of names, or a regular expression without errors"
            )
    numbers = config.get("layers_to_transform")
    if not all(type(one) is int for one in (numbers if isinstance(numbers, list) else [numbers or 0])):
        raise UserError(f"{file}: layers_to_transform is {numbers!r}; expected a number of a layer, or a list of them")
    return unknown


def _is_names(value: object, form: str) -> bool:
    """Whether a setting that names layers can be read.

    Args:
        form: regular expression around each pattern; its only group stands after it.
    """
    if value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        patterns = value if value and form != "{}" else []
    else:
        patterns = [value]
    try:
        compiled = [re.compile(form.format(pattern)) for pattern in patterns if isinstance(pattern, str)]
    except re.error:
        return False
    return len(compiled) == len(patterns) and (form == "{}" or all(one.groups == 1 for one in compiled))


def require_targets(config: Mapping[str, Any], layers: Iterable[str], where: str | Path) -> None:
    """Raise UserError where there are factors of a layer that the config does not name: PEFT would leave them out."""
    for layer in layers:
        if not is_target(config, layer):
            raise UserError(
                f"{where}/{CONFIG_NAME}: there are factors of {layer!r}, which it does not name (target_modules, "
                "layers_to_transform, exclude_modules); take the file that was written with them"
            )


def is_target(config: Mapping[str, Any], layer: str) -> bool:
    """Whether the config of an adapter names a layer, as PEFT decides it; all layers where it names none."""
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    if excluded and _named(excluded, layer):
        return False
    if not targets or targets == "all-linear":
        return True
    if isinstance(targets, str) or layer in targets or not _named(targets, layer):
        return _named(targets, layer)
    numbers = config.get("layers_to_transform")
    return numbers in (None, []) or _number(config, layer) in (numbers if isinstance(numbers, list) else [numbers])


def _named(names: str | Iterable[str], layer: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, layer) is not None
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def _number(config: Mapping[str, Any], layer: str) -> int | None:
    """The number of a layer among its equals: the first one in its name, or the one after ``layers_pattern``."""
    given = config.get("layers_pattern")
    named = [given] if isinstance(given, str) and given else given or []
    patterns = [_NUMBERED.format(name) for name in named] or [r".*?\.[^.]*\.(\d+)\."]
    found = next((match for pattern in patterns if (match := re.match(pattern, layer))), None)
    return int(found[1]) if found else None
