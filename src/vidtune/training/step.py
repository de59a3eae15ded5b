"""The optimizer step: forward and backward over the packs of a step, scaling, clipping, and the update of the weights.

A step takes ``global_batch_size`` samples, in as many packs as ``max_tokens_per_batch`` makes of them, shared out among
the ranks. The gradients of the plain sum of losses are accumulated over the packs. They are divided once, by the number
of supervised tokens that all ranks really processed. So the minimised loss depends neither on the packing, nor on the
number of ranks, nor on a file that failed.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from vidtune.checkpoints.files.tensors import is_finite
from vidtune.models.batch_norm_statistics import deferred_statistics
from vidtune.planning.randomness import random_seed, seed_torch
from vidtune.processing.batch import Batch, Item
from vidtune.training.estimates.flops import StepFlops, peak_flops
from vidtune.training.forward import PackForward, PackLosses, PairForward, dummy_batch
from vidtune.training.optimizers import averages, build_optimizer
from vidtune.training.packs.ahead import Ahead
from vidtune.training.packs.counts import StepCounts, StepTotals, exchange
from vidtune.training.packs.pack import LoadedPack
from vidtune.training.packs.transfer import Transfer
from vidtune.training.pair_step import NumberedBatch, PairStep
from vidtune.training.ranks.group import Ranks
from vidtune.training.ranks.parallel import ParallelForward
from vidtune.training.schedule import learning_rate_factor, warmup_steps
from vidtune.training.setup.exclusions import FailedFiles
from vidtune.training.setup.parameters import parameter_groups
from vidtune.training.setup.stage import StageSetup
from vidtune.training.setup.starting_model import frozen_dtype


class OptimizerStep:
    """Makes the optimizer steps of a stage on this rank.

    For each step call `set_learning_rates`, `accumulate`, `exchange` and `update`, in this order and on all ranks.

    Args:
        setup: the stage; its model and its teachers are moved to this rank's device.
        ranks: the processes that train together.
    """

    def __init__(self, setup: StageSetup, ranks: Ranks) -> None:
        stage, model = setup.stage, setup.model
        self._setup, self._ranks, self._plan = setup, ranks, setup.plan
        self._transfer = Transfer(ranks.device, setup.processor.preprocessing)
        self.forward = ParallelForward(stage_forward(setup), stage, ranks)
        groups = parameter_groups(model, setup.trained, stage.weight_decay, stage.optimizer, setup.contrast)
        self.optimizer = build_optimizer(groups, stage)
        self._by_component: dict[str, list[nn.Parameter]] = {name: [] for name in setup.trained}
        for group in groups:
            self._by_component[group["component"]] += group["params"]
        self._parameters = [parameter for part in self._by_component.values() for parameter in part]
        self._warmup = warmup_steps(self._plan.total_steps, stage.warmup)
        self._teachers = setup.teachers
        peak = peak_flops(ranks.device, stage.precision)
        taught = {stream: tower.config for stream, tower in self._teachers.towers.items()}
        compared, answers = setup.contrast.config if setup.contrast else None, stage.objective is None
        self._flops = StepFlops.of_stage(model.config, setup.trained, taught, answers, compared) if peak else None
        self.peak_flops = peak * ranks.world if peak and self._flops else None
        """Floating-point operations per second of the devices of all ranks; None where it is not known."""
        self._teachers.to(ranks.device, frozen_dtype(stage))
        self._statistics = deferred_statistics(model)
        self._pairs = None
        if setup.contrast is not None:
            loss, seed = setup.contrast.config.loss, setup.recipe.seed
            filled, statistics = setup.stored.filled, self._statistics
            self._pairs = PairStep(self.forward, loss, seed, ranks, self._transfer, statistics, filled)

    def set_learning_rates(self, step: int) -> dict[str, float]:
        """Set the learning rates of a step (from 0). Returns the rate of each trained component."""
        stage = self._setup.stage
        factor = learning_rate_factor(stage.schedule, step, self._plan.total_steps, self._warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        return {name: how.learning_rate * factor for name, how in self._setup.trained.items()}

    def accumulate(self, step: int, packs: Ahead, failed_files: FailedFiles) -> StepCounts:
        """Add up the gradients of this rank's packs of a step.

        A rank that cannot continue still makes the passes that the other ranks wait for; its error is in the result.

        Args:
            packs: source of this rank's packs.
            failed_files: files that failed before; samples that need such a file are left out.
        """
        counts = StepCounts(tuple(self._teachers.weights))
        factors = self._teachers.factors(self._plan, step)
        passes = -(-len(self._plan.packs(step)) // self._ranks.world)  # the same on every rank, dummies included
        if self._pairs is not None:
            taken = [self._next(packs, failed_files, counts) for _ in range(passes)]
            self._compare(step, taken, self._pairs, counts)
            return counts
        for place in range(passes):
            pack = self._next(packs, failed_files, counts)
            if pack is None or pack.batch is None:
                if self._ranks.world > 1:
                    self._backward(dummy_batch(), factors, place == passes - 1)
                continue
            assert pack.number is not None
            seed_torch(random_seed(self._setup.recipe.seed, step, pack.number))
            losses = self._backward(pack.batch, factors, place == passes - 1)
            self._transfer.begin(packs.upcoming())
            counts.add(pack.batch, losses, pack.num_supervised, self._flops_of(pack.batch, pack.num_supervised))
        return counts

    def _next(self, packs: Ahead, failed_files: FailedFiles, counts: StepCounts) -> LoadedPack | None:
        """Returns the next pack of this rank; None after an error, which is then in ``counts``."""
        if counts.error is not None:
            return None
        try:
            pack = packs.next().without(failed_files)
        except Exception as error:
            counts.error = error
            return None
        counts.excluded += pack.excluded
        return pack

    def _compare(self, step: int, taken: Sequence[LoadedPack | None], pairs: PairStep, counts: StepCounts) -> None:
        """Add the gradients of all packs of a contrastive step."""
        packs = [
            NumberedBatch(None, None) if pack is None else NumberedBatch(pack.batch, pack.number) for pack in taken
        ]
        for pack, (losses, number) in zip(packs, pairs.backward(step, packs), strict=True):
            if pack.batch is not None:
                counts.add(pack.batch, losses, number, self._flops_of(pack.batch, 0))

    def exchange(self, counts: StepCounts, waited: float, stopping: bool) -> StepTotals:
        """Exchange the numbers of a step with the other ranks. Returns the numbers of all ranks.

        Args:
            counts: this rank's part of the step.
            waited: seconds this rank has waited for data since the run began.
            stopping: whether this rank was asked to stop.
        """
        fill_missing_gradients(self._parameters)
        norms = gradient_norms(self._by_component)
        return exchange(self._ranks, counts, norms, self.forward.is_sharded, waited, stopping)

    def update(self, totals: StepTotals) -> dict[str, float]:
        """Scale and clip the gradients and update the weights.

        Returns: gradient norm before clipping of each component, and of all of them as "total".
        """
        # The gradients are averaged over the ranks. Wanted is their sum, divided by the tokens of all ranks.
        mean = self._ranks.world / max(totals.sum("supervised"), 1)
        *each, total = totals.norms(mean)
        scale_gradients(self._parameters, clipping_factor(total, self._setup.stage.max_grad_norm) * mean)
        for layer in self._statistics:
            layer.update_statistics(self._ranks.table(layer.take_statistics()).sum(0))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {**dict(zip(self._by_component, each, strict=True)), "total": total}

    def not_finite(self) -> list[str]:
        """Returns the trained components with a weight, or the part of one on this rank, that is not finite."""
        return [
            name
            for name, part in self._by_component.items()
            if not all(is_finite(local_part(parameter.detach())) for parameter in part)
        ]

    def reached(self) -> set[str]:
        """Returns the trained components, or the parts of them on this rank, that have had a gradient but zero."""
        states = self.optimizer.state
        return {
            name
            for name, part in self._by_component.items()
            if any(local_part(value).any() for parameter in part for value in averages(states[parameter]))
        }

    def _backward(self, batch: Batch, factors: dict[str, float], is_last: bool) -> PackLosses:
        """Add the gradients of a pack. Returns its losses, detached from the graph."""
        taught = self._teachers.teach(self._transfer.take(batch))
        with self.forward.accumulate(is_last):
            losses: PackLosses = self.forward.net(taught, factors)
            losses.total.backward()
        return losses._replace(total=losses.total.detach())

    def _flops_of(self, batch: Batch, supervised: int) -> float:
        if self._flops is None:
            return 0.0
        plan = self._setup.model.plan(batch)
        tokens, squares = plan.mean_tokens(), plan.mean_tokens(power=2)
        items = {stream: sum(map(_encoding_cost, media)) for stream, media in batch.media.items()}
        texts = sum(not caption.encoded for caption in batch.captions or ())
        return self._flops.of(tokens, squares, items, supervised, texts)


def _encoding_cost(item: Item) -> float:
    """Cost of encoding an item, in standard items of its tower."""
    return 0.0 if item.encoded else 1.0 if item.measured is None else item.measured.cost


def stage_forward(setup: StageSetup) -> PackForward | PairForward:
    """Returns the forward pass of the packs of a stage, not yet wrapped for many processes."""
    precision = setup.stage.precision
    if setup.contrast is not None:
        return PairForward(setup.model, precision, setup.contrast)
    return PackForward(setup.model, precision, setup.telling)


def fill_missing_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Give a gradient of zeros to every parameter that no pack of the step reached.

    An optimizer moves a weight with a zero gradient (momentum, weight decay) but skips one without a gradient. With
    zeros, every step treats every weight alike, whatever its packs happened to hold.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def gradient_norms(parameters: Mapping[str, Sequence[nn.Parameter]]) -> Tensor:
    """Returns the L2 norm of the gradients of each component; of sharded gradients, of the part on this rank.

    Shape: (len(parameters),)
    """
    return torch.stack([get_total_norm(local_gradients(part)) for part in parameters.values()])


def scale_gradients(parameters: Sequence[nn.Parameter], factor: Tensor | float) -> None:
    """Multiply all gradients in place."""
    torch._foreach_mul_(local_gradients(parameters), factor)


def local_gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Returns the existing gradients as plain tensors; of sharded gradients, the part on this rank."""
    return [local_part(parameter.grad) for parameter in parameters if parameter.grad is not None]


def local_part(tensor: Tensor) -> Tensor:
    """Returns a plain tensor as it is; of a sharded one, the part on this rank."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def clipping_factor(norm: float, max_norm: float | None) -> float:
    """Returns the factor that reduces gradients of this norm to ``max_norm``; 1 if the norm is smaller, or for None."""
    return 1.0 if max_norm is None else min(1.0, max_norm / (norm + 1e-6))
