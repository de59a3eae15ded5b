"""Tensors without values on devices that this machine does not have: an operation on tensors of two devices raises.

The CPU by a number, ``cpu:1``, is another device than ``cpu`` here; torch has no guards for devices that it was not
built for.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def pretended_devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within it, all new tensors have shapes and devices alone."""
    made = torch.tensor

    def tensor(data: object, *, dtype: torch.dtype | None = None, device: object = None) -> torch.Tensor:
        found = made(data, dtype=dtype)
        return torch.empty(tuple(found.shape), dtype=found.dtype, device=device)

    def from_numpy(array: np.ndarray) -> torch.Tensor:
        return torch.empty(array.shape, dtype=made(array[:0]).dtype)

    with monkeypatch.context() as patched, FakeTensorMode(), torch.inference_mode():
        patched.setattr(torch, "tensor", tensor)
        patched.setattr(torch, "from_numpy", from_numpy)
        yield


def pretend(module: nn.Module, device: str) -> None:
    """Give a module weights without values on a device, in place."""
    for part in module.modules():
        for name, weight in list(part._parameters.items()):
            if weight is not None:
                empty = torch.empty(tuple(weight.shape), dtype=weight.dtype, device=device)
                part._parameters[name] = nn.Parameter(empty, requires_grad=False)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = torch.empty(tuple(buffer.shape), dtype=buffer.dtype, device=device)
