"""Running statistics that a training step takes up once, whatever its packs and ranks."""

import torch
from torch import Tensor, nn


class StepStatistics(nn.Module):
    """A layer that normalises by the statistics of what it sees, and keeps running ones for later.

    Updated one after the other they would depend on the order of a step's media, which packs and ranks decide. With
    ``defer`` set a forward pass only remembers what it saw: the training adds it up over the step, over all ranks, and
    hands it back.
    """

    defer = False

    def take_statistics(self) -> Tensor:
        """What was seen since the last call, so that sums over ranks mean something. Shape: (K,) float64, on CPU"""
        raise NotImplementedError

    def update_statistics(self, seen: Tensor) -> None:
        """Take up what all ranks saw in a step: the sum of their :meth:`take_statistics`."""
        raise NotImplementedError


def deferred_statistics(model: nn.Module) -> list[StepStatistics]:
    """The layers of a model whose statistics change in training; from now on they wait for the end of the step."""
    found = [layer for layer in model.modules() if isinstance(layer, StepStatistics) and layer.training]
    for layer in found:
        layer.defer = True
    return found


class ClipBatchNorm(StepStatistics, nn.BatchNorm3d):
    """Batch normalisation that takes every clip as a batch of its own, so that a pack of clips equals one by one.

    In training each clip is normalised by its own statistics. The running ones take up the clips in order; those of a
    deferred step become what they would be on average over all orders of its clips.

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
        # Weights may be gathered in fewer bits than the running statistics have; both have to agree.
        dtype = torch.promote_types(x.dtype, torch.float32)
        mean, var = (None if part is None else part.to(dtype) for part in (mean, var))
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return nn.functional.batch_norm(x, mean, var, weight, bias, mean is None, 0.0, self.eps)

    def take_statistics(self) -> Tensor:
        """Sums of the clips' means and of their variances, and their number. Shape: (2 C + 1,)"""
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
