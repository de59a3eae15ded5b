"""Put a loaded model on its devices, with the language model in fewer bits where that is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast, get_args

import torch
from torch import nn
from transformers import PreTrainedModel

from vidtune.errors import UserError
from vidtune.models.language_model.quantization import (
    Bits,
    is_quantized,
    quantize_linear_layers,
    require_bitsandbytes,
)
from vidtune.models.video_lm import VideoLM
from vidtune.spelling import suggestion

PARTS = ("towers", "language_model")
"""Parts of a model that may have a device of their own; connectors stand with the language model."""
QUANTIZED_ON = ("cpu", "cuda", "xpu")
"""Types of devices on which bitsandbytes computes."""


@dataclass(frozen=True)
class Placement:
    """Where the parts of a model compute, and in how many bits its language model is held.

    Args:
        device: device of torch.
        quantize: "8bit" or "4bit": the linear layers of the language model but its head; None: they stay as they are.
        parts: part ("towers" or "language_model") -> device in the place of ``device``.

    Raises:
        UserError: an unknown part or number of bits, bitsandbytes is not installed, or it does not know the device.
    """

    device: str = "cpu"
    quantize: Bits | None = None
    parts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise UserError(f"--place {part}: no such part of a model; {suggestion(part, PARTS)}")
        if self.quantize is None:
            return
        if self.quantize not in get_args(Bits):
            raise UserError(f"--quantize {self.quantize}: give {' or '.join(get_args(Bits))}")
        require_bitsandbytes(f"--quantize {self.quantize}")
        if (kind := torch.device(self.of("language_model")).type) not in QUANTIZED_ON:
            raise UserError(
                f"--quantize {self.quantize}: bitsandbytes does not compute on {kind}; leave it out, or place the "
                "language model with --place language_model=cpu"
            )

    def of(self, part: str) -> str:
        """Device of a part."""
        return self.parts.get(part, self.device)


def place_model(model: VideoLM, placement: Placement) -> None:
    """Move the parts of a model to their devices, in place, and set it to evaluation mode.

    A layer that is held in fewer bits goes there alone, so that a device never holds more than one layer as it was.
    """
    model.eval()
    home = torch.device(placement.of("language_model"))
    if placement.quantize is not None:
        quantize_linear_layers(model.language_model, placement.quantize, home, in_own_dtype=True)
    for name, part in model.named_children():
        part.to(placement.of("towers") if name == "towers" else home)
    if placement.quantize is not None:
        settle(model.language_model)


@torch.inference_mode()
def settle(language_model: PreTrainedModel) -> None:
    """Run every layer in few bits once: the first run changes how it holds its weight, which no two threads may do."""
    weight = next(language_model.get_input_embeddings().parameters())
    for layer in language_model.modules():
        if is_quantized(layer):
            layer(weight.new_zeros(1, cast(nn.Linear, layer).in_features))
