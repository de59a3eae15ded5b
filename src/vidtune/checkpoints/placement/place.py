"""Where the parts of a model are asked to compute, and in how many bits its language model is held."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

import torch

from vidtune.errors import UserError
from vidtune.machine.devices import numbered
from vidtune.models.language_model.quantization import Bits, require_bitsandbytes
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
        parts: part ("towers" or "language_model") -> device in the place of ``device``. The language model may have
            several devices, separated by commas, over which its decoder layers are divided.

    Raises:
        UserError: an unknown part or number of bits, several devices for towers, one device twice, bitsandbytes is not
            installed, or it does not compute on a device.
    """

    device: str = "cpu"
    quantize: Bits | None = None
    parts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise UserError(f"--place {part}: no such part of a model; {suggestion(part, PARTS)}")
        if "," in self.of("towers"):
            raise UserError(f"--place towers={self.of('towers')}: give one device; language_model takes several")
        if len(set(map(numbered, self.devices))) < len(self.devices):
            raise UserError(f"--place language_model={','.join(self.devices)}: names a device twice; name each once")
        if self.quantize is None:
            return
        if self.quantize not in get_args(Bits):
            raise UserError(f"--quantize {self.quantize}: give {' or '.join(get_args(Bits))}")
        require_bitsandbytes(f"--quantize {self.quantize}")
        kinds = (torch.device(device).type for device in self.devices)
        if kind := next((kind for kind in kinds if kind not in QUANTIZED_ON), None):
            raise UserError(
                f"--quantize {self.quantize}: bitsandbytes does not compute on {kind}; leave it out, or place the "
                "language model with --place language_model=cpu"
            )

    def of(self, part: str) -> str:
        """Device of a child of the model; connectors, and what else is no tower, are where the embeddings are."""
        return self.parts.get("towers", self.device) if part == "towers" else self.devices[0]

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices of the language model: the first holds its embeddings and head, all of them hold its layers."""
        return tuple(self.parts.get("language_model", self.device).split(","))
