"""Forward pass of one pack: one module computes its losses, so that wrappers for many processes can hook into it."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vidtune.models.text_alignment.caption_words import WordTelling
from vidtune.models.text_alignment.contrast import Contrast, Pairs
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import IGNORED, Batch


class PackLosses(NamedTuple):
    """Losses of one pack, with S distilled streams.

    Args:
        total: scalar to differentiate: summed loss plus each alignment loss times its factor.
        terms: (1 + S,) float32, the plain sums: loss over supervised tokens (over words where a stage aligns), then the
            alignment loss of each stream over its frames.
        frames: number of aligned frames of each stream.
    """

    total: Tensor
    terms: Tensor
    frames: list[int]


class PackForward(nn.Module):
    """Module that computes the losses of one pack.

    Args:
        model: the model; its trained parts are float32.
        precision: "float32", or "bfloat16" for autocast.
        telling: the loss of a stage that aligns media with words; None: the loss is the cross-entropy of the answers.
    """

    def __init__(self, model: VideoLM, precision: str, telling: WordTelling | None = None) -> None:
        super().__init__()
        self.model = model
        self.telling = None if telling is None else telling.to(model.device)
        self.autocast = precision == "bfloat16"

    def forward(self, batch: Batch, factors: Mapping[str, float] | None = None) -> PackLosses:
        """Returns the losses of a pack.

        Args:
            factors: stream -> factor of its alignment loss, for each distilled stream.
        """
        with torch.autocast(batch.input_ids.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            if self.telling is None:
                text, aligned = self.model.loss_terms(batch)
            else:
                text, aligned = self.telling(self.model, batch), {}
        factors = factors or {}
        # A stream without a factor has factor zero: every backward pass reaches every trained weight.
        total = text + sum(factors.get(stream, 0.0) * loss for stream, (loss, _) in aligned.items())
        found = [aligned.get(stream, (torch.zeros_like(text), 0)) for stream in factors]
        terms = torch.stack([text, *(loss for loss, _ in found)]).detach()
        return PackLosses(total, terms, [frames for _, frames in found])


class PairForward(nn.Module):
    """Module that computes the pairs of one pack of a contrastive stage.

    Args:
        model: the model, of which the towers run.
        precision: "float32", or "bfloat16" for autocast; the unit vectors are float32.
        contrast: what the towers are compared with.
    """

    def __init__(self, model: VideoLM, precision: str, contrast: Contrast) -> None:
        super().__init__()
        self.model, self.contrast = model, contrast
        self.autocast = precision == "bfloat16"

    def forward(self, batch: Batch) -> Pairs:
        """Returns the pairs of a pack."""
        with torch.autocast(batch.input_ids.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            return self.contrast(self.model, batch)


def dummy_batch() -> Batch:
    """Returns a batch of two text tokens without a label, for a rank that has no pack left in a step.

    Sharded ranks gather weights and reduce gradients together, so all ranks must make the same number of passes.
    """
    ids = torch.zeros(1, 2, dtype=torch.long)
    return Batch(ids, torch.arange(2)[None], torch.full_like(ids, IGNORED), [0, 2], [])
