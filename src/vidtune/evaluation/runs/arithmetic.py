"""What a run computes with: device, dtype and versions. Answers of one run are computed with one of each."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import nn

DECISIVE = ("vidtune", "torch", "transformers")
"""Packages whose version may change an answer."""


class Arithmetic(BaseModel):
    """Where and in which precision answers are computed.

    Args:
        device: type of the device, such as "cpu" or "cuda"; several are joined by " and ".
        dtype: dtype of the weights; several are joined by " and ".
    """

    model_config = ConfigDict(frozen=True)

    device: str
    dtype: str


def arithmetic_of(model: "nn.Module") -> Arithmetic:
    """Returns the arithmetic of a model as it lies in memory."""
    parameters = list(model.parameters())
    dtypes = sorted({str(one.dtype).removeprefix("torch.") for one in parameters})
    devices = sorted({one.device.type for one in parameters})
    return Arithmetic(device=" and ".join(devices), dtype=" and ".join(dtypes))


def decisive(versions: Mapping[str, str]) -> dict[str, str]:
    """Returns the versions of the decisive packages; which build of a release it is, the device tells."""
    return {name: versions[name].partition("+")[0] for name in DECISIVE if name in versions}


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Returns the decisive versions that differ, in words: ``torch 2.12.0 and 2.13.0``."""
    before, now = decisive(old), decisive(new)
    return [f"{name} {before[name]} and {now[name]}" for name in before if now.get(name, before[name]) != before[name]]
