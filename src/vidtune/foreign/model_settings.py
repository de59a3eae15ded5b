"""Settings in the config.json of a model that name code: files beside the weights, kernels on the hub, packages.

transformers acts on them: it asks whether to run the files, downloads a kernel that ``attn_implementation`` names, and
imports a package for quantised weights. Here, such settings of a stranger are ignored or refused.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vidtune.errors import ForeignFileError
from vidtune.foreign.documents import read_object
from vidtune.foreign.sizes import absurd_size, said_of

ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""Implementations that are part of transformers or of an installed package of its own."""
EXPERTS = ("eager", "batched_mm", "grouped_mm")
"""Implementations of mixtures of experts that are part of transformers."""
QUANTISED_BY = ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit", "gptq", "awq", "compressed-tensors")
"""Kinds of quantised weights whose code is in an installed package; that of others is fetched from the hub."""
_CODE = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code", "use_kernels", "kernel_config")
_WEIGHTS = "transformers_weights"
"""Setting that names another file of weights."""
_RUNNING = ("return_dict", "use_return_dict", "output_attentions", "output_hidden_states", "torchscript")
_CLASSIFIER = ("id2label", "label2id", "num_labels", "problem_type")
OF_NO_WEIGHTS = (*_RUNNING, *_CLASSIFIER)
"""Settings of how a model is called, and of classifiers: no weight depends on them, and odd values end it later."""
_IMPLEMENTATION = re.compile(r"_?(attn|experts)_implementation(_internal|_autoset)?")


def of_weights(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that weights depend on, at every level: without those that name code, and OF_NO_WEIGHTS."""
    return {
        key: of_weights(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in (*_CODE, _WEIGHTS, *OF_NO_WEIGHTS) and _IMPLEMENTATION.fullmatch(key) is None
    }


def require_possible_sizes(settings: Mapping[str, Any], path: Path) -> None:
    """Refuse a config.json with sizes that no model has. Raises ForeignFileError, which names the setting."""
    if (found := absurd_size(settings)) is not None:
        where, value, limit = found
        raise ForeignFileError(str(path), f"{'.'.join(map(str, where))} {said_of(value, limit)}")


def require_loadable(folder: Path) -> dict[str, Any]:
    """Look at a folder that transformers will load by itself, and return its config.json.

    Raises:
        ForeignFileError: its settings name code or sizes that no model has, or its weights are pickles alone.
    """
    path = folder / "config.json"
    settings = read_object(path)
    require_known_code(settings, path)
    require_possible_sizes(settings, path)
    if not any(folder.glob("*.safetensors")):
        advice = "take a version with model.safetensors, or write one by save_pretrained where you trust the files"
        raise ForeignFileError(
            str(folder), f"has no weights in safetensors; other files of weights are not read: {advice}"
        )
    return settings


def require_known_code(settings: Mapping[str, Any], path: Path) -> None:
    """Refuse a config.json with which transformers would run anything but its own code and that of known packages.

    ``auto_map`` is left to ``trust_remote_code=False``, with which transformers ignores it where it has the model.

    Raises:
        ForeignFileError: names the setting.
    """
    for key, value in settings.items():
        if isinstance(value, dict) and _IMPLEMENTATION.fullmatch(key) is None:
            require_known_code(value, path)
        if (match := _IMPLEMENTATION.fullmatch(key)) and not key.endswith("_autoset"):
            known = ATTENTION if match[1] == "attn" else EXPERTS
            for name in _names(value):
                if name is not None and name not in known:
                    raise _refusal(path, key, name, known)
        elif key == "quantization_config" and isinstance(value, dict):
            kind = value.get("quant_method", "bitsandbytes")
            if kind not in QUANTISED_BY:
                raise _refusal(path, f"{key}.quant_method", kind, QUANTISED_BY)
        elif key in ("use_kernels", "kernel_config", _WEIGHTS) and value:
            raise ForeignFileError(str(path), f"has {key}, which is not followed; remove it")


def _names(value: Any) -> Iterator[Any]:
    """An implementation, or those of the parts of a model."""
    if isinstance(value, dict):
        yield from value.values()
    else:
        yield value


def _refusal(path: Path, key: str, found: Any, known: tuple[str, ...]) -> ForeignFileError:
    shown = repr(found)[:80]
    return ForeignFileError(str(path), f"{key} is {shown}; code from the hub is never run: use {', '.join(known)}")
