"""Operations and memory of a stage per token and per media item, counted on tensors without values.

The modules of the stage run forward and backward once in the fake mode of torch: every operation knows its shapes, but
no number is computed. So new towers and connectors need no formula here.

Legend: n tokens of one example, D language-model width.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from vidtune.checkpoints.lora.added_rows import split_rows
from vidtune.checkpoints.lora.injection import add_adapters
from vidtune.models.batch_norm_statistics import deferred_statistics
from vidtune.models.config import ADDED_TOKENS, VideoLMConfig
from vidtune.models.initial import without_values
from vidtune.models.media_reading import is_trainable
from vidtune.models.text_alignment.contrast import Contrast, ContrastConfig
from vidtune.models.towers.base import TowerConfig
from vidtune.models.video_lm import VideoLM
from vidtune.processing.batch import Item
from vidtune.recipe.types import Train
from vidtune.training.ranks.parallel import layers as layers_of
from vidtune.training.setup.parameters import prepare_components, prepare_contrast

PROBE = 128
"""Number of tokens of the shorter one of the two examples that the language model is run on."""


@dataclass(frozen=True)
class Cost:
    """Cost of one unit.

    Args:
        flops: floating-point operations of forward and backward; a multiply-add counts as two.
        forward: peak bytes of the forward pass, including tensors kept for backward, without weights.
    """

    flops: float
    forward: float


@dataclass(frozen=True)
class Weights:
    """Number of weights of one component.

    Args:
        trained: weights with gradients.
        frozen: all other weights.
        linear: frozen weights in linear layers, without the output head.
    """

    trained: int
    frozen: int
    linear: int


@dataclass(frozen=True)
class StageCosts:
    """Costs of the parts of one stage.

    Args:
        weights: number of weights of each component.
        layers: number of weights of each layer of the language model.
        head: number of weights of the output head.
        items: stream -> cost of tower and connector for one media item.
        token: cost of the language model without its head per token; ``forward`` assumes fused attention.
        squared_token: operations that attention adds for an example of n tokens, divided by n squared.
        supervised: cost of the head per supervised token.
        fixed: bytes that do not depend on lengths: weights that autocast has cast.
        teachers: distilled stream -> cost of the teacher for one media item.
        aligned: distilled stream -> cost of the alignment head for one media item.
        teacher_weights: number of weights of all teachers.
        text: cost of the text tower of a contrastive stage for one text of the greatest length.
    """

    weights: Mapping[str, Weights]
    layers: tuple[int, ...]
    head: Weights
    items: Mapping[str, Cost]
    token: Cost
    squared_token: float
    supervised: Cost
    fixed: float
    teachers: Mapping[str, Cost] = field(default_factory=dict)
    aligned: Mapping[str, Cost] = field(default_factory=dict)
    teacher_weights: int = 0
    text: Cost = Cost(0.0, 0.0)

    def of_media_alone(self) -> "StageCosts":
        """Returns the costs where towers and connectors run, but not the language model."""
        nothing = Cost(0.0, 0.0)
        return replace(self, token=nothing, squared_token=0.0, supervised=nothing)


def stage_costs(
    config: VideoLMConfig,
    trained: Mapping[str, Train],
    precision: str,
    teachers: Mapping[str, TowerConfig] | None = None,
    contrast: ContrastConfig | None = None,
) -> StageCosts:
    """Returns the costs of one stage. Takes seconds for seven billion weights, and hardly any memory.

    Args:
        config: config of the model.
        trained: training settings of each trained component, by name; the other components are frozen.
        precision: precision of the stage, "float32" or "bfloat16".
        teachers: config of the teacher of each distilled stream; the alignment heads belong to ``config``.
        contrast: what a contrastive stage compares: its media cost their pooled outputs, and no connector runs.

    Raises:
        RuntimeError: a part needs real values to run, for example a mixture of experts.
    """
    frozen_dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    model = _model(config, trained, frozen_dtype)
    with without_values():
        towers = {name: spec.build().to(frozen_dtype) for name, spec in (teachers or {}).items()}
        compared = None if contrast is None else contrast.build()
    if compared is not None:
        prepare_contrast(compared, trained, frozen_dtype)
    with FakeTensorMode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        _give_fake_values(model)
        for part in (*towers.values(), *(() if compared is None else (compared,))):
            _give_fake_values(part)
        taught = {name: _two(tower, partial(_taught, tower), 1) for name, tower in towers.items()}
        aligned = {name: _two(model, partial(_aligned, model, name), 1) for name in towers}
        streams = _of_media(model, compared)
        text = Cost(0.0, 0.0) if compared is None else _difference(*_two(compared, partial(_read, compared), 1))
        short, long = _two(model, partial(_hidden, model), PROBE)
        head = _two(model, partial(_logits, model), 1)
    squared = (long.flops - 2 * short.flops) / (2 * PROBE**2)
    token = Cost(short.flops / PROBE - squared * PROBE, (long.forward - short.forward) / PROBE)
    fixed = short.forward - token.forward * PROBE + sum(2 * a.forward - b.forward for a, b in [*streams.values(), head])
    return StageCosts(
        weights=_weights(model) | ({} if compared is None else _weights_beside(compared)),
        layers=tuple(sum(map(Tensor.numel, layer.parameters())) for layer in layers_of(model.language_model)),
        head=_numbers(model.get_output_embeddings(), set(), set()),
        items={name: _difference(*counts) for name, counts in streams.items()},
        token=token,
        squared_token=squared,
        supervised=_difference(*head),
        fixed=fixed,
        teachers={name: _difference(*counts) for name, counts in taught.items()},
        aligned={name: _difference(*counts) for name, counts in aligned.items()},
        text=text,
        teacher_weights=sum(weight.numel() for tower in towers.values() for weight in tower.parameters()),
    )


def _model(config: VideoLMConfig, trained: Mapping[str, Train], frozen_dtype: torch.dtype) -> VideoLM:
    """Returns the model on the meta device, frozen and cast as in the stage."""
    with without_values():
        model = VideoLM(config)
    if ADDED_TOKENS in trained:
        split_rows(model)
    parts = model.components()
    for name, how in trained.items():
        if how.lora is not None:
            add_adapters(parts[name], how.lora, seed=0, where=name)
    prepare_components(model, trained, frozen_dtype)
    deferred_statistics(model)  # updating the statistics would read values
    return model


def _give_fake_values(model: nn.Module) -> None:
    """Replace all meta tensors by fake tensors. Must be called in fake mode."""
    fakes: dict[int, Tensor] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in fakes:
                values = torch.empty(parameter.shape, dtype=parameter.dtype)
                fakes[id(parameter)] = nn.Parameter(values, requires_grad=parameter.requires_grad)
            setattr(module, name, fakes[id(parameter)])
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _weights(model: VideoLM) -> dict[str, Weights]:
    """Returns the number of weights of each component. A weight that two components share counts for the first one."""
    seen: set[int] = set()
    numbers = {}
    for component, part in model.components().items():
        linear = {
            id(layer.weight)
            for layer in part.modules()
            if isinstance(layer, nn.Linear) and layer is not model.get_output_embeddings()
        }
        numbers[component] = _numbers(part, linear, seen)
        seen |= {id(weight) for weight in part.parameters()}
    return numbers


def _weights_beside(contrast: Contrast) -> dict[str, Weights]:
    return {name: _numbers(part, set(), set()) for name, part in contrast.components().items()}


def _of_media(model: VideoLM, contrast: Contrast | None) -> dict[str, tuple[Cost, Cost]]:
    """Stream -> costs of one and of two of its media, as the stage runs them. Must be called in fake mode."""
    if contrast is None:
        return {name: _two(model, partial(_encoded, model, name), 1) for name in model.config.streams}
    both = nn.ModuleList([model, contrast])
    return {name: _two(both, partial(_compared, model, contrast, name), 1) for name in contrast.config.projections}


def _compared(model: VideoLM, contrast: Contrast, stream: str, number: int) -> Tensor:
    """Vectors of ``number`` media of a stream, whose values are all zero. Shape: -> (n, W)"""
    tower = model.config.tower(model.config.streams[stream]["tower"])
    return contrast.media(model, stream, [Item(torch.zeros(tower.input_shape()), 1) for _ in range(number)])


def _read(contrast: Contrast, number: int) -> Tensor:
    """Vectors of ``number`` texts of the greatest length. Shape: -> (n, W)"""
    length = contrast.config.text.max_position_embeddings
    return contrast.texts([torch.zeros(length, dtype=torch.long) for _ in range(number)])


def _numbers(part: nn.Module, linear: set[int], seen: set[int]) -> Weights:
    fresh = [weight for weight in part.parameters() if id(weight) not in seen]
    frozen = [weight for weight in fresh if not weight.requires_grad]
    return Weights(
        trained=sum(weight.numel() for weight in fresh if weight.requires_grad),
        frozen=sum(weight.numel() for weight in frozen),
        linear=sum(weight.numel() for weight in frozen if id(weight) in linear),
    )


def _encoded(model: VideoLM, stream: str, number: int) -> Tensor:
    return torch.cat(list(model.encode_zeros(stream, number)))


@torch.no_grad()
def _taught(tower: Any, number: int) -> Tensor:
    return tower(torch.zeros(number, *tower.config.input_shape(), dtype=next(tower.parameters()).dtype))


def _aligned(model: VideoLM, stream: str, number: int) -> Tensor:
    """Run the alignment head over all tokens of ``number`` aligned media items."""
    tower: Any = model.config.tower(model.config.streams[stream]["tower"])
    tokens = sum(len(grid.tokens()) for grid in tower.token_grids(tower.input_shape()))
    head: Any = model.alignments[stream]
    width = model.config.text_config.hidden_size
    return head(torch.zeros(len(head.config.layers), number * tokens, width, requires_grad=True))


def _hidden(model: VideoLM, length: int) -> Tensor:
    """Run the language model without its head on one example. Shape: -> (1, n, D)"""
    learns = is_trainable(model.get_input_embeddings()) or any(
        is_trainable(part) for name, part in model.components().items() if name != "language_model"
    )
    embeds = torch.zeros(1, length, model.config.text_config.hidden_size, requires_grad=learns)
    return model.language_model.get_decoder()(inputs_embeds=embeds, use_cache=False).last_hidden_state


def _logits(model: VideoLM, number: int) -> Tensor:
    hidden = torch.zeros(number, model.config.text_config.hidden_size, requires_grad=True)
    return model.get_output_embeddings()(hidden)


def _two(model: nn.Module, run: Callable[[int], Tensor], size: int) -> tuple[Cost, Cost]:
    """Returns the costs at a size and at twice that size. All costs but attention are linear in the size."""
    weights = list(model.parameters())
    return _count(lambda: run(size), weights), _count(lambda: run(2 * size), weights)


def _difference(once: Cost, twice: Cost) -> Cost:
    return Cost(twice.flops - once.flops, twice.forward - once.forward)


def _count(run: Callable[[], Tensor], weights: Sequence[Tensor]) -> Cost:
    with _Flops() as counter:
        with _PeakMemory(weights) as memory:
            output = run()
        if output.requires_grad:
            output.sum().backward()
    return Cost(counter.total, memory.peak)


class _Flops(TorchDispatchMode):
    """Sums the operations that torch's counter counts. It does not follow modules, so it costs a fraction of that."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


class _PeakMemory(TorchDispatchMode):
    """Measures the peak bytes of all tensors that exist at the same time; views of ``weights`` do not count."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.peak = self.alive = 0
        self.known = {storage._cdata for storage in _storages(weights)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage._cdata not in self.known:
                self.known.add(storage._cdata)
                self.alive += storage.nbytes()
                self.peak = max(self.peak, self.alive)
                weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return result

    def _forget(self, storage: int, size: int) -> None:
        self.known.discard(storage)
        self.alive -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward_flops(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> int:
    """Returns twice the operations of forward: what a kernel recomputes to save memory does not count."""
    return 2 * sdpa_flop_count(query.shape, key.shape, value.shape)


# Operation -> its count. torch counts its CUDA kernels only, but the fake tensors are CPU tensors.
_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
