"""A model that stands on another one in memory and shares its weights: only what it changes is its own."""

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn

from vidtune.checkpoints.assembly.composition import config_of
from vidtune.checkpoints.assembly.layer import read_layer, require_different, require_whole_parts
from vidtune.checkpoints.files.tensors import is_finite
from vidtune.checkpoints.lora.merging import put_beside
from vidtune.checkpoints.parts import generation
from vidtune.checkpoints.report import LoadReport
from vidtune.checkpoints.source import Source
from vidtune.errors import UserError
from vidtune.models.video_lm import VideoLM


def is_base(below: Source, source: Source) -> bool:
    """Whether a whole model is the one on which a checkpoint stands."""
    bottom = source.in_order()[0]
    return (
        source.is_layer
        and bottom.kind in ("native", "published")
        and _identity(bottom) == _identity(below)
        and bottom.path.resolve() == below.path.resolve()
    )


def _identity(source: Source) -> tuple[object, ...]:
    towers = [(tower.component, tower.place) for tower in source.towers]
    return source.kind, source.format and source.format.name, source.names, towers


def beside(model: VideoLM, source: Source) -> tuple[VideoLM, LoadReport] | None:
    """Returns a model that shares the weights of its base, with adapters beside them, and the report of its source.

    Args:
        model: the base, on its device and in its dtype; it is not changed.
        source: see `is_base`.

    Returns:
        None where the source is more than one adapter and whole weights: adapters on adapters, rows of added tokens,
        differences to a language model, other settings.
    Raises:
        UserError: as `assemble`.
    """
    below, *above = source.in_order()
    layers = [read_layer(one) for one in above]
    require_different(layers)
    plain = not any(layer.rows or layer.difference for layer in layers)
    if not plain or sum(bool(layer.adapters) for layer in layers) > 1:
        return None
    config = config_of(source)
    if config.to_dict() != config_of(below).to_dict():
        return None
    view = sharing_copy(model)
    view.use_layer_program(config.layer_program)  # that of the base may have been given when it was loaded
    generation.take_token_ids(view, source)
    report = LoadReport("")
    for layer in layers:
        require_whole_parts(layer.source, set(layer.connectors), view)
        own_weights(view, layer.connectors)
        report = layer.put_on(view, put_beside)
    shared = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    for name, tensor in view.state_dict(keep_vars=True).items():
        if id(tensor) not in shared and not is_finite(tensor):
            raise UserError(f"{source.place}: {name}: is NaN or Inf; check the scale and the base of its adapters")
    report.warnings += [note for one in source.steps() for note in one.notes]
    return view, report


def sharing_copy(model: VideoLM) -> VideoLM:
    """A copy of a model, each module of which is its own, with the weights of the model itself."""
    tensors = (*model.parameters(), *model.buffers())
    return deepcopy(model, {id(tensor): tensor for tensor in tensors})


@torch.no_grad()
def own_weights(model: VideoLM, names: Iterable[str]) -> None:
    """Give a model weights of its own in the place of some that it shares, also under their other names."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    copies: dict[int, Tensor] = {id(weights[name]): weights[name].clone() for name in names if name in weights}
    made = {key: nn.Parameter(copy, requires_grad=False) for key, copy in copies.items()}
    for name, weight in weights.items():
        if id(weight) in made:
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, made[id(weight)])
