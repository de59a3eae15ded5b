"""Low-rank adapters of published LoRA runs: read from their folder and merged into the base weights.

Source: LoRA (arXiv:2106.09685); files as PEFT and LLaVA-style trainers write them (``adapter_config.json``,
``adapter_model``, and ``non_lora_trainables`` for the parts trained fully beside it).
"""

import json
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from vidtune.errors import UserError
from vidtune.models.formats import KeyMap
from vidtune.models.tensor_files import read_state

ADAPTER_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
TRAINABLE_NAMES = ("non_lora_trainables.bin", "non_lora_trainables.safetensors")
_FACTOR = re.compile(r"(?P<target>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def read_trainables(folder: Path) -> dict[str, Tensor]:
    """Parts trained fully beside the adapter, under the names of the whole official checkpoint."""
    state = read_state(folder, TRAINABLE_NAMES)
    return {re.sub(r"^(base_model\.)?model\.(?=model\.)", "", name): tensor for name, tensor in state.items()}


def read_updates(folder: Path) -> dict[str, Tensor]:
    """Weight updates B A * alpha / rank by the official name of the weight they belong to.

    Raises:
        UserError: an adapter that is more than plain LoRA, or a factor without its partner.
    """
    config = json.loads((folder / "adapter_config.json").read_text())
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("bias", "none") != "none":
        raise UserError(f"{folder}/adapter_config.json: only plain LoRA without biases can be merged")
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_state(folder, ADAPTER_NAMES).items():
        match = _FACTOR.fullmatch(name.removeprefix("base_model.model."))
        if match is None:
            raise UserError(f"{folder}: {name!r} is no LoRA factor")
        factors.setdefault(match["target"] + ".weight", {})[match["side"]] = tensor
    alone = next((name for name, sides in factors.items() if len(sides) != 2), None)
    if alone is not None:
        raise UserError(f"{folder}: one of the two LoRA factors of {alone!r} is missing")
    return {name: (sides["B"].float() @ sides["A"].float()) * scale for name, sides in factors.items()}


@torch.no_grad()
def merge(model: nn.Module, updates: dict[str, Tensor], keys: KeyMap, where: Path) -> None:
    """Add updates, named as in the official checkpoint, to the model's weights.

    Raises:
        UserError: an update whose weight is not there or has another shape; names it.
    """
    parameters = dict(model.named_parameters())
    for name, update in updates.items():
        weight = parameters.get(keys.to_ours(name) or "")
        if weight is None or weight.shape != update.shape:
            raise UserError(f"{where}: the base model has no weight {name!r} of shape {tuple(update.shape)}")
        weight.copy_(weight.float() + update)
