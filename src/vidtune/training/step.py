"""One optimizer step: the loss of a batch, and what happens to the summed gradients before the optimizer sees them."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from vidtune.models.video_lm import VideoLM
from vidtune.processing.packing import Batch


class TrainingStep(nn.Module):
    """The whole forward pass as one module, which is what wrappers for many processes hook into.

    Args:
        model: its trained parts in float32.
        precision: "float32", or "bfloat16" for autocast.
    """

    def __init__(self, model: VideoLM, precision: str) -> None:
        super().__init__()
        self.model = model
        self.autocast = precision == "bfloat16"

    def forward(self, batch: Batch) -> Tensor:
        """Cross-entropy summed over the supervised tokens of the batch. Shape: scalar, float32"""
        with torch.autocast(batch.input_ids.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            return self.model.loss_sum(batch)


def random_seed(*key: int) -> int:
    """A seed for everything random at one place of the run, e.g. (recipe seed, step, pack): no generator state has to
    be saved.
    """
    return int(np.random.SeedSequence([abs(number) for number in key]).generate_state(1, np.uint64)[0] >> 2)


def fill_missing_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Zeros where no batch of the step reached a trained weight.

    AdamW moves a weight with a zero gradient (momentum, decay) but skips one without: every step treats every weight
    alike, whatever its batches happened to hold.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def gradient_norms(parameters: Mapping[str, Sequence[nn.Parameter]]) -> Tensor:
    """L2 norm of the gradients of each component. Shape: (len(parameters),)"""
    return torch.stack([get_total_norm([p.grad for p in part if p.grad is not None]) for part in parameters.values()])


def scale_gradients(parameters: Sequence[nn.Parameter], factor: Tensor | float) -> None:
    """Multiply all gradients in place."""
    torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], factor)


def clipping_factor(norm: Tensor, max_norm: float | None) -> Tensor:
    """What brings gradients of this norm down to ``max_norm``; one when they are within it, or for None."""
    if max_norm is None:
        return torch.ones_like(norm)
    return (max_norm / (norm + 1e-6)).clamp(max=1.0)
