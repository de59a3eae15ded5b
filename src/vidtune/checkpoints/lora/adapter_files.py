"""Files of low-rank adapters, read and written: PEFT's own, and those of LLaVA-style trainers.

Legend: r rank, I inputs and O outputs of a linear layer.
Source: LoRA (arXiv:2106.09685); files as PEFT and LLaVA-style trainers write them (``adapter_config.json``,
``adapter_model``, and ``non_lora_trainables`` for the parts trained fully beside it).
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vidtune.checkpoints.files.folder import CheckpointFiles
from vidtune.checkpoints.files.tensors import require_floating
from vidtune.checkpoints.lora.adapter_settings import CONFIG_NAME, require_plain, require_targets
from vidtune.checkpoints.publication import KeyMap
from vidtune.errors import UserError
from vidtune.recipe.types import LoRA

ADAPTER_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
TRAINABLE_NAMES = ("non_lora_trainables.bin", "non_lora_trainables.safetensors")
WRAPPER = "base_model.model."
_FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")


@dataclass(frozen=True)
class Adapter:
    """Low-rank adapter of a model, or of one component: an update for each of some linear layers.

    Args:
        config: the content of ``adapter_config.json``.
        factors: layer name -> (A of shape (r, I), B of shape (O, r)); the update of its weight is ``scale * B A``.
    """

    config: dict[str, Any]
    factors: dict[str, tuple[Tensor, Tensor]]

    @property
    def scale(self) -> float:
        """Factor of the product of the two matrices."""
        rank = self.config["r"]
        return float(self.config["lora_alpha"] / (rank**0.5 if self.config.get("use_rslora") else rank))

    def same_as(self, other: "Adapter") -> bool:
        """Whether another adapter is the same update of the same layers."""
        return (
            self.scale == other.scale
            and self.factors.keys() == other.factors.keys()
            and all(torch.equal(a, other.factors[name][0]) for name, (a, _) in self.factors.items())
            and all(torch.equal(b, other.factors[name][1]) for name, (_, b) in self.factors.items())
        )

    def renamed(self, rename: KeyMap, where: Path) -> "Adapter":
        """Return the same adapter with the layers' names of a published format.

        Args:
            rename: key map of the format.
            where: path for error messages.

        Raises:
            UserError: the format has no place for a layer.
        """
        factors = {}
        for layer, pair in self.factors.items():
            theirs = rename.to_theirs(layer + ".weight")
            if theirs is None:
                raise UserError(f"{where}: the format has no place for an adapter of {layer!r}")
            factors[theirs.removesuffix(".weight")] = pair
        return Adapter(self.config, factors)


def is_adapter_weight(name: str) -> bool:
    """Whether a parameter's name is that of a low-rank factor."""
    return ".lora_A." in name or ".lora_B." in name


def adapter_config(settings: LoRA, layers: Iterable[str], base: str, task: str | None) -> dict[str, Any]:
    """Return the content of ``adapter_config.json``, in keys that every version of PEFT knows, old pinned ones too.

    Args:
        layers: names of the adapted layers, or the last parts of them.
        base: folder or hub id of what was adapted.
        task: PEFT's name of the task, "CAUSAL_LM" for a language model.
    """
    return {
        "auto_mapping": None,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": int(settings.alpha) if settings.alpha == int(settings.alpha) else settings.alpha,
        "lora_dropout": settings.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": settings.rank,
        "revision": None,
        "target_modules": sorted(layers),
        "task_type": task,
    }


def adapter_from_state(state: dict[str, Tensor], config: dict[str, Any], where: str | Path) -> Adapter:
    """Build an adapter from its tensors, named ``<layer>.lora_A.weight``, with or without PEFT's wrapper and name.

    Raises:
        UserError: an adapter that is more than plain LoRA, a factor without its partner or under two names, or a rank
            or scale in the config that does not fit the factors.
    """
    require_plain(config, where)
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        match = _FACTOR.fullmatch(name.removeprefix(WRAPPER))
        if match is None:
            raise UserError(f"{where}: {name!r} is no LoRA factor")
        if match["side"] in sides.setdefault(match["layer"], {}):
            raise UserError(
                f"{where}: holds the LoRA factor {match['side']} of {match['layer']!r} under two names, one of them "
                f"{name!r}; keep the one of this adapter"
            )
        sides[match["layer"]][match["side"]] = tensor
    alone = next((layer for layer, found in sides.items() if len(found) != 2), None)
    if alone is not None:
        raise UserError(f"{where}: one of the two LoRA factors of {alone!r} is missing")
    adapter = Adapter(config, {layer: (found["A"], found["B"]) for layer, found in sides.items()})
    _require_fit(adapter, where)
    return adapter


def _require_fit(adapter: Adapter, where: str | Path) -> None:
    """Raise UserError unless the factors are floating-point matrices of the rank and the layers in the config."""
    rank = adapter.config["r"]
    for layer, (down, up) in adapter.factors.items():
        if down.ndim != 2 or up.ndim != 2 or not len(down) == up.shape[1] == rank:
            shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
            raise UserError(
                f"{where}/{CONFIG_NAME}: r is {rank}, but the factors of {layer!r} have the shapes {shapes}; "
                "take the adapter_config.json that was written with them"
            )
        for factor in (down, up):
            require_floating(layer, factor, where)
    require_targets(adapter.config, adapter.factors, where)


def read_adapter(files: CheckpointFiles, inside: str = ".") -> Adapter:
    """Read the adapter in a checkpoint's folder; see :func:`adapter_from_state` for what is refused.

    Args:
        inside: folder in the checkpoint's folder.
    """
    config = files.json(CONFIG_NAME if inside == "." else f"{inside}/{CONFIG_NAME}")
    return adapter_from_state(dict(files.tensors(ADAPTER_NAMES, inside)), config, files.path / inside)


def write_adapter(adapter: Adapter, folder: Path, *, pickled: bool = False) -> None:
    """Write an adapter so that PEFT can read it.

    Args:
        pickled: write ``adapter_model.bin``, which old versions of PEFT need, instead of safetensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        f"{WRAPPER}{layer}.lora_{side}.weight": factor.contiguous()
        for layer, pair in adapter.factors.items()
        for side, factor in zip("AB", pair, strict=True)
    }
    if pickled:
        torch.save(state, folder / "adapter_model.bin")
    else:
        save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / CONFIG_NAME).write_text(json.dumps(adapter.config, indent=1), encoding="utf-8")


def official_name(name: str) -> str:
    """Return the name that a weight of ``non_lora_trainables`` has in a whole official checkpoint."""
    return re.sub(r"^(base_model\.model\.|model\.(?=model\.))", "", name)
