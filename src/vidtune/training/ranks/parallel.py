"""One model on many processes: a copy on each (DDP), or its weights, gradients and moments cut up between them (FSDP2).

The training step is wrapped as a whole, because what is called from outside a wrapper escapes its hooks.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from vidtune.models.video_lm import is_trainable
from vidtune.recipe.types import Stage
from vidtune.training.forward import PackForward
from vidtune.training.ranks.group import Ranks

# Up to this size FSDP2 adds up whole gradients over the packs of a step and reduces them once; larger ones, which
# would cost the memory that sharding saves, are reduced after every pack.
WHOLE_GRADIENT_BYTES = 2 * 2**30


class ParallelForward:
    """A training step on this process's share of the work.

    Args:
        step: the model in it is moved to the device of ``ranks``, and changed in place when it is sharded.
        stage: says how (``parallel``, ``precision``).
        ranks: with one process nothing is wrapped.
    """

    def __init__(self, step: PackForward, stage: Stage, ranks: Ranks) -> None:
        self.net: nn.Module = step
        self._step = step
        self.is_sharded = ranks.world > 1 and stage.parallel == "fsdp2"
        self._waits_for_last = True
        if self.is_sharded:
            shard(step, ranks, torch.bfloat16 if stage.precision == "bfloat16" else None)
            size = sum(4 * p.numel() for p in step.parameters() if p.requires_grad)
            self._waits_for_last = size <= WHOLE_GRADIENT_BYTES
            return
        step.to(ranks.device)
        if ranks.world > 1:
            # Searching for unused weights serves weights that no forward pass reaches (layers behind a tower's
            # feature layer), and keeps the buckets as they are from the first step on: DDP would otherwise sort them
            # after one step, and a resumed run would add its gradients in another order.
            with warnings.catch_warnings():
                # Its new name is not known to all the versions of torch that will do.
                warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
                self.net = DistributedDataParallel(
                    step, broadcast_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
                )

    @contextmanager
    def accumulate(self, is_last: bool) -> Iterator[None]:
        """Around forward and backward of one pack; the ranks' gradients are averaged in the last one of a step."""
        if isinstance(self.net, FSDPModule):
            self.net.set_requires_gradient_sync(is_last or not self._waits_for_last)
            yield
        elif isinstance(self.net, DistributedDataParallel) and not is_last:
            with self.net.no_sync():
                yield
        else:
            yield

    def whole_weights(self, frozen: bool) -> dict[str, Tensor]:
        """Weights on CPU under the model's own names; on rank 0, nothing on the others. Call it on all ranks.

        Args:
            frozen: take those that do not train as well.
        """
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=not frozen)
        weights = cast("dict[str, Tensor]", get_model_state_dict(self.net, options=options))
        if not frozen:  # torch leaves the second name of a frozen weight that is tied
            named = self._step.named_parameters(remove_duplicate=False)
            not_trained = {name for name, weight in named if not weight.requires_grad}
            weights = {name: tensor for name, tensor in weights.items() if name not in not_trained}
        return {name.removeprefix("model."): tensor for name, tensor in weights.items()}


def shard(step: PackForward, ranks: Ranks, dtype: torch.dtype | None) -> None:
    """Cut all weights up between the ranks, in place; frozen towers, connectors apart, stay whole on each.

    The units, gathered one at a time, are the language model's layers; everything else is gathered once per forward.
    That holds trained towers too: a batch decides how often and in which order they run, and ranks that gather in
    different orders wait for each other for ever.

    Args:
        dtype: to gather and compute in; None as stored. Gradients are always summed in float32.
    """
    model = step.model
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    policy = MixedPrecisionPolicy()
    if dtype is not None:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    frozen_towers = [tower for tower in model.towers.values() if not is_trainable(tower)]
    for tower in frozen_towers:
        tower.to(ranks.device)
    # A pack without media would leave a frozen language model out of the backward pass, in which other ranks gather.
    model.language_model.enable_input_require_grads()
    for layer in layers(model.language_model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    ignored = {parameter for tower in frozen_towers for parameter in tower.parameters()}
    fully_shard(step, mesh=mesh, mp_policy=policy, ignored_params=ignored)


def layers(module: nn.Module) -> list[nn.Module]:
    """The members of the outermost module lists: the layers of a transformer, whatever their class."""
    if isinstance(module, nn.ModuleList):
        return list(module)
    return [layer for child in module.children() for layer in layers(child)]
