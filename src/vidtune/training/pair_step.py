"""The gradients of a contrastive step: every pair is compared with all pairs of the step, of all packs and ranks.

All packs but the last run without a graph, then the last one with it; their vectors are gathered over the ranks, and
the loss gives the gradient of each vector. Then each pack runs with a graph and passes these gradients on. So the
memory is that of one pack, and the gradient that of the whole step in one pass (GradCache, arXiv:2101.06983). Random
numbers are those of the pack, so that both passes of a pack give the same vectors.

Legend: P pairs of all packs and ranks.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vidtune.models.batch_norm_statistics import StepStatistics
from vidtune.models.text_alignment.contrast import Loss, Pairs, contrast_loss
from vidtune.planning.randomness import random_seed, seed_torch
from vidtune.processing.batch import Batch
from vidtune.training.forward import PackLosses, dummy_batch
from vidtune.training.packs.transfer import Transfer
from vidtune.training.ranks.group import Ranks
from vidtune.training.ranks.parallel import ParallelForward


class NumberedBatch(NamedTuple):
    """A pack of a step. ``batch``: None for a dummy. ``number``: number of the pack in the step."""

    batch: Batch | None
    number: int | None


class Gradients(NamedTuple):
    """Gradients of the loss of a step: of the vectors of this rank's pairs in order, of scale and bias."""

    media: Tensor
    texts: Tensor
    scale: Tensor
    bias: Tensor


class PairStep:
    """Adds up the gradients of this rank's packs of a contrastive step.

    Args:
        forward: forward pass that gives the pairs of a pack.
        loss: how pairs are compared.
        seed: seed of the recipe.
        transfer: moves packs to the device.
        statistics: layers whose statistics are collected in the forward pass.
        filled: function that puts into a pack what its first pass has stored, so that the second does not compute it.
    """

    def __init__(
        self,
        forward: ParallelForward,
        loss: Loss,
        seed: int,
        ranks: Ranks,
        transfer: Transfer,
        statistics: Sequence[StepStatistics] = (),
        filled: Callable[[Batch], Batch] | None = None,
    ) -> None:
        self._forward, self._loss, self._seed = forward, loss, seed
        self._ranks, self._transfer, self._statistics, self._filled = ranks, transfer, statistics, filled

    def backward(self, step: int, packs: Sequence[NumberedBatch]) -> list[tuple[PackLosses, int]]:
        """Add the gradients of the packs, as many on every rank. Returns losses and number of pairs of each pack.

        The loss of a pack is its share of the loss of the step, by its number of pairs.
        """
        *before, last = range(len(packs))
        with torch.no_grad():
            found = [self._pairs(step, packs[place]) for place in before]
        for layer in self._statistics:
            layer.take_statistics()  # collected again in the second pass
        with self._forward.accumulate(is_last=not before):
            with_graph = self._pairs(step, packs[last])
            found.append(Pairs(*(part.detach() for part in with_graph)))
            loss, (media, texts, scale, bias) = self._gradients(found)
            sizes = [len(pairs.media) for pairs in found]
            of_media, of_texts = media.split(sizes), texts.split(sizes)
            # Every rank has the whole gradient of the scale; the ranks' gradients are added up.
            shared = scale / self._ranks.world, bias / self._ranks.world
            _surrogate(with_graph, Gradients(of_media[last], of_texts[last], *shared)).backward()
        del with_graph
        nothing = torch.zeros_like(scale), torch.zeros_like(bias)
        for place in before:
            with self._forward.accumulate(place == before[-1]):
                pairs = self._pairs(step, packs[place])
                _surrogate(pairs, Gradients(of_media[place], of_texts[place], *nothing)).backward()
        return [(PackLosses(loss * size, (loss * size)[None], []), size) for size in sizes]

    def _pairs(self, step: int, pack: NumberedBatch) -> Pairs:
        if pack.number is not None:
            seed_torch(random_seed(self._seed, step, pack.number))
        batch = dummy_batch() if pack.batch is None else pack.batch
        pairs: Pairs = self._forward.net(self._transfer.take(batch if self._filled is None else self._filled(batch)))
        return pairs

    def _gradients(self, found: Sequence[Pairs]) -> tuple[Tensor, Gradients]:
        """Loss of the step for each of its pairs, and the gradients of its sum.

        Args:
            found: pairs of the packs of this rank, without a graph.
        """
        own = [torch.cat(parts) for parts in zip(*(pairs[:3] for pairs in found), strict=True)]
        gathered, first = self._ranks.rows(own)
        media, texts, scale, bias = (
            part.requires_grad_() for part in (gathered[0], gathered[1], found[0].scale.clone(), found[0].bias.clone())
        )
        loss = contrast_loss(media, texts, gathered[2], scale, bias, self._loss)
        all_of = torch.autograd.grad(loss, (media, texts, scale, bias), allow_unused=True, materialize_grads=True)
        mine = slice(first, first + len(own[0]))
        return loss.detach() / max(len(media), 1), Gradients(all_of[0][mine], all_of[1][mine], *all_of[2:])


def _surrogate(pairs: Pairs, gradients: Gradients) -> Tensor:
    """Number whose gradient at the weights is that of the loss, of which the gradients at the vectors are given."""
    parts = zip((pairs.media, pairs.texts, pairs.scale, pairs.bias), gradients, strict=True)
    return pairs.untouched + torch.stack([(part * gradient).sum() for part, gradient in parts]).sum()
