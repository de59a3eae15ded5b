"""One optimizer step: the loss of a batch, and what happens to the summed gradients before the optimizer sees them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import IGNORED, Batch


class StepLoss(NamedTuple):
    """What a pack comes to, for S distilled streams.

    Args:
        total: what gradients are taken of: summed cross-entropy and the alignment losses, each times its factor.
        terms: (1 + S,) float32, the sums themselves: over supervised tokens, and over the frames of each stream.
        frames: how many frames of each stream.
    """

    total: Tensor
    terms: Tensor
    frames: list[int]


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

    def forward(self, batch: Batch, factors: Mapping[str, float] | None = None) -> StepLoss:
        """The losses of a pack.

        Args:
            factors: what multiplies the alignment loss of each stream that is distilled.
        """
        with torch.autocast(batch.input_ids.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            text, aligned = self.model.loss_terms(batch)
        factors = factors or {}
        # A stream without a factor is touched all the same: every pass reaches every trained weight.
        total = text + sum(factors.get(stream, 0.0) * loss for stream, (loss, _) in aligned.items())
        found = [aligned.get(stream, (torch.zeros_like(text), 0)) for stream in factors]
        terms = torch.stack([text, *(loss for loss, _ in found)]).detach()
        return StepLoss(total, terms, [frames for _, frames in found])


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
    """L2 norm of the gradients of each component; of sharded ones, of the part this rank holds.

    Shape: (len(parameters),)
    """
    return torch.stack([get_total_norm(local_gradients(part)) for part in parameters.values()])


def scale_gradients(parameters: Sequence[nn.Parameter], factor: Tensor | float) -> None:
    """Multiply all gradients in place."""
    torch._foreach_mul_(local_gradients(parameters), factor)


def local_gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradients that there are, as plain tensors; of sharded ones, the part this rank holds."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]


def clipping_factor(norm: float, max_norm: float | None) -> float:
    """What brings gradients of this norm down to ``max_norm``; one when they are within it, or for None."""
    return 1.0 if max_norm is None else min(1.0, max_norm / (norm + 1e-6))


def dummy_batch() -> Batch:
    """Two tokens of text without a label: a forward and backward pass for a rank that has no pack left in a step.

    Sharded ranks gather weights and reduce gradients together, so all of them make equally many passes.
    """
    ids = torch.zeros(1, 2, dtype=torch.long)
    return Batch(ids, torch.arange(2)[None], torch.full_like(ids, IGNORED), [0, 2], [])
