"""One model on many processes: a copy on each (DDP), or weights, gradients and optimizer state sharded (FSDP2).

The whole forward pass is wrapped as one module, because calls from outside a wrapper do not run its hooks.
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

from vidtune.models.media_reading import is_trainable
from vidtune.recipe.types import Stage
from vidtune.training.forward import PackForward, PairForward
from vidtune.training.ranks.group import Ranks

# Up to this size FSDP2 adds up whole gradients over the packs of a step and reduces them once. Larger gradients are
# reduced after every pack: holding them whole would cost the memory that sharding saves.
WHOLE_GRADIENT_BYTES = 2 * 2**30


class ParallelForward:
    """The forward pass of a pack, wrapped for the processes that train together.

    Args:
        step: the forward pass; its model is moved to the device of ``ranks``, and changed in place if it is sharded.
        stage: settings of the stage (``parallel``, ``precision``).
        ranks: the processes that train together; with one process nothing is wrapped.
    """

    def __init__(self, step: PackForward | PairForward, stage: Stage, ranks: Ranks) -> None:
        self.net: nn.Module = step
        self._step, self._ranks = step, ranks
        self.is_sharded = ranks.world > 1 and stage.parallel == "fsdp2"
        self._waits_for_last = True
        if self.is_sharded:
            shard(step, ranks, torch.bfloat16 if stage.precision == "bfloat16" else None)
            size = sum(4 * p.numel() for p in step.parameters() if p.requires_grad)
            self._waits_for_last = size <= WHOLE_GRADIENT_BYTES
            return
        step.to(ranks.device)
        if ranks.world > 1:
            # DDP searches for unused weights for two reasons. Some weights are reached by no forward pass (layers
            # behind a tower's feature layer). And the buckets stay as they are from the first step on: otherwise DDP
            # would sort them after one step, and a resumed run would add its gradients in another order.
            with warnings.catch_warnings():
                # The new name of this argument is not known to all supported versions of torch.
                warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
                self.net = DistributedDataParallel(
                    step, broadcast_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
                )

    @contextmanager
    def accumulate(self, is_last: bool) -> Iterator[None]:
        """Context manager for forward and backward of one pack. The last pack of a step averages the gradients."""
        if isinstance(self.net, FSDPModule):
            self.net.set_requires_gradient_sync(is_last or not self._waits_for_last)
            yield
        elif isinstance(self.net, DistributedDataParallel) and not is_last:
            with self.net.no_sync():
                yield
        else:
            yield

    def whole_weights(self, frozen: bool) -> dict[str, Tensor]:
        """Returns the weights on the CPU by the names of the model; on other ranks than rank 0, nothing.

        All ranks must call it.

        Args:
            frozen: whether to include the frozen weights.
        """
        if self.is_sharded:
            options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=not frozen)
            weights = cast("dict[str, Tensor]", get_model_state_dict(self.net, options=options))
        else:  # every process holds them all
            held = self._step.state_dict() if self._ranks.is_main else {}
            weights = {name: tensor.cpu() for name, tensor in held.items()}
        if not frozen:  # under every name of a tied weight
            named = self._step.named_parameters(remove_duplicate=False)
            not_trained = {name for name, weight in named if not weight.requires_grad}
            weights = {name: tensor for name, tensor in weights.items() if name not in not_trained}
        return {name.removeprefix("model."): tensor for name, tensor in weights.items()}


def shard(step: PackForward | PairForward, ranks: Ranks, dtype: torch.dtype | None) -> None:
    """Shard all weights between the ranks, in place. Only frozen towers, also of texts, stay whole on each rank.

    The layers of the language model are gathered one at a time; all other weights are gathered once per forward pass,
    trained towers included. The batch decides how often and in which order towers run, and ranks that gather in
    different orders would wait for each other for ever.

    Args:
        dtype: dtype to gather and compute in; None: as stored. Gradients are always summed in float32.
    """
    model = step.model
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    policy = MixedPrecisionPolicy()
    if dtype is not None:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    beside = list(step.contrast.components().values()) if isinstance(step, PairForward) else []
    frozen_towers = [tower for tower in [*model.towers.values(), *beside] if not is_trainable(tower)]
    for tower in frozen_towers:
        tower.to(ranks.device)
    # Without this, a pack without media would skip the backward pass of a frozen language model, in which other ranks
    # gather weights.
    model.language_model.enable_input_require_grads()
    for layer in layers(model.language_model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    ignored = {parameter for tower in frozen_towers for parameter in tower.parameters()}
    fully_shard(step, mesh=mesh, mp_policy=policy, ignored_params=ignored)


def layers(module: nn.Module) -> list[nn.Module]:
    """Returns the members of the outermost module lists: the layers of a transformer of any class."""
    if isinstance(module, nn.ModuleList):
        return list(module)
    return [layer for child in module.children() for layer in layers(child)]
