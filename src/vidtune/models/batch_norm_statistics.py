"""Running statistics of batch normalisation, updated once per training step, independent of its packs and ranks."""

from typing import Self

import torch
from torch import Tensor, nn


class StepStatistics(nn.Module):
    """A layer that normalises by the statistics of its input in training, and by running statistics afterwards.

    If running statistics were updated in every forward pass, they would depend on the order of the media of a step,
    which packs and ranks decide. With ``defer`` set, a forward pass only collects its statistics; training sums them
    over the step and over all ranks, and passes the sum to :meth:`update_statistics`. With ``frozen`` set, the running
    statistics stay as they are, and normalise in training too.
    """

    defer = False
    frozen = False

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    def take_statistics(self) -> Tensor:
        """Statistics collected since the last call; they can be summed over ranks. Shape: (K,) float64, on CPU"""
        raise NotImplementedError

    def update_statistics(self, seen: Tensor) -> None:
        """Update the running statistics by those of a step: the sum of :meth:`take_statistics` over all ranks."""
        raise NotImplementedError


def with_statistics(model: nn.Module) -> list[StepStatistics]:
    """Layers of a model that have running statistics."""
    return [layer for layer in model.modules() if isinstance(layer, StepStatistics)]


def deferred_statistics(model: nn.Module) -> list[StepStatistics]:
    """Layers of a model whose statistics change in training; from now on they defer the update to the end of a step."""
    found = [layer for layer in with_statistics(model) if layer.training]
    for layer in found:
        layer.defer = True
    return found


class ClipBatchNorm(StepStatistics, nn.BatchNorm3d):
    """Batch normalisation that treats every clip as its own batch, so that a pack of clips equals the clips one by one.

    In training each clip is normalised by its own statistics. The running statistics are updated by the clips in order.
    With a deferred update they become what they would be on average over all orders of the clips.

    Shape: (K, C, t, H, W), ``num_clips`` clips of K / num_clips chunks each -> the same
    """

    _seen: Tensor | None = None

    def forward(self, x: Tensor, num_clips: int = 1) -> Tensor:
        if not self.training:
            return self._normalize(x, self.running_mean, self.running_var)
        return torch.cat([self._learn(clip) for clip in x.chunk(num_clips)])

    def _learn(self, clip: Tensor) -> Tensor:
        with torch.no_grad():
            var, mean = torch.var_mean(clip.to(torch.promote_types(clip.dtype, torch.float32)), dim=(0, 2, 3, 4))
            seen = torch.cat([mean, var, mean.new_ones(1)]).double()
            self._seen = seen if self._seen is None else self._seen + seen
        if not self.defer:
            self.update_statistics(self.take_statistics())
        return self._normalize(clip, None, None)

    def _normalize(self, x: Tensor, mean: Tensor | None, var: Tensor | None) -> Tensor:
        # Under sharding, weights may have a lower precision than the running statistics; both must agree.
        dtype = torch.promote_types(x.dtype, torch.float32)
        mean, var = (None if part is None else part.to(dtype) for part in (mean, var))
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return nn.functional.batch_norm(x, mean, var, weight, bias, mean is None, 0.0, self.eps)

    def take_statistics(self) -> Tensor:
        """Sum of the means of the clips, sum of their variances, and number of clips. Shape: (2 C + 1,)"""
        seen, self._seen = self._seen, None
        return torch.zeros(2 * self.num_features + 1, dtype=torch.float64) if seen is None else seen.cpu()

    def update_statistics(self, seen: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        number = int(seen[-1])
        if not number:
            return
        mean, var = (seen[:-1] / number).chunk(2)
        keep = (1.0 - self.momentum) ** number
        for running, new in ((self.running_mean, mean), (self.running_var, var)):
            running.mul_(keep).add_((1.0 - keep) * new.to(running))
        self.num_batches_tracked += number
