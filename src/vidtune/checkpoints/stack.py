"""Published parts of a model on what they stand on: connectors and LoRA runs, put on a language model bottom up.

A stack is named from its bottom: a language model (or a whole checkpoint), files of connectors, folders of LoRA runs.
Of connectors the upper ones hold; adapters are merged one after the other, each sum rounded to the weights' dtype.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vidtune.checkpoints.checkpoints import (
    Dtypes,
    LoadReport,
    find_format,
    holds_video_lm,
    is_ours,
    load_checkpoint,
    read_config,
    rename,
)
from vidtune.checkpoints.files.hub import locate
from vidtune.checkpoints.files.tensors import SINGLE_NAMES, read_state
from vidtune.checkpoints.formats import CheckpointFormat, JsonDict
from vidtune.checkpoints.lora import adapters
from vidtune.errors import UserError
from vidtune.models.video_lm import VideoLM
from vidtune.registry import SYSTEMS

_HOW = "with --model-base, and what else it stands on by more of them, bottom up"


@dataclass(frozen=True)
class Layer:
    """Part of a model, in a published format.

    Args:
        path: file or folder.
        system: name of the system whose format it is.
        config: the content of its config.json; empty without one.
        state: its connectors under our names.
        adapter: of a LoRA run; None for connectors alone.
        report: what became of its keys.
    """

    path: Path
    system: str
    format: CheckpointFormat
    config: JsonDict
    state: dict[str, Tensor]
    adapter: adapters.Adapter | None
    report: LoadReport


def read_layer(path: Path, system: str | None = None) -> Layer | None:
    """The part of a model at ``path``; None for a whole one, and for anything that this package wrote.

    Args:
        system: of which it has to be; None: of any.

    Raises:
        UserError: of no known format, or keys that it does not know.
    """
    if is_ours(path):
        return None
    is_run = adapters.is_adapter(path)
    state = adapters.read_trainables(path) if is_run else read_state(path, (*SINGLE_NAMES, *_file_names()))
    config = read_config(path) if (path / "config.json").is_file() else {}
    name, format = find_format(config, list(state), path, is_run, system)
    if not format.partial:
        return None
    report = LoadReport(format.name)
    ours = rename(state, format.keys, report)
    report.refuse_gaps(path)
    adapter = adapters.read_adapter(path) if is_run else None
    report.loaded += 2 * len(adapter.factors) if adapter else 0
    return Layer(path, name, format, config, ours, adapter, report)


def load_stack(places: Sequence[str | Path], system: str, dtype: Dtypes = None) -> tuple[VideoLM, LoadReport]:
    """The merged model of a stack, and the report of its top.

    Args:
        places: files, folders or hub ids, bottom up; at least the top.

    Raises:
        UserError: no language model at the bottom, something that does not fit, or a LoRA run without the connectors
            that it was trained with.
    """
    from vidtune.checkpoints.build import build_partial, partial_config

    layers = [require_layer(place, system) for place in places[1:] or places]
    top, bottom = layers[-1], str(places[0])
    if len(places) == 1:
        raise UserError(f"{top.path}: holds {', '.join(top.format.partial)} only; name its language model {_HOW}")
    if _is_layer(locate(bottom), system):
        raise UserError(f"{bottom}: holds no language model, which has to be the first; name it {_HOW}")
    state = {name: tensor for layer in layers for name, tensor in layer.state.items()}
    drawn: list[str] = []
    if holds_video_lm(locate(bottom)):
        model = load_checkpoint(bottom, dtype=dtype).model
        if model.config.system != system:
            raise UserError(f"{top.path}: is of system {system}, but {bottom} of {model.config.system}")
        _copy_connectors(model, state, top.path)
    else:
        config = partial_config(system, top.config, bottom)
        drawn = [f"connectors.{name}" for name in config.connectors if not _holds(state, f"connectors.{name}")]
        if drawn and any(layer.adapter for layer in layers):
            raise UserError(
                f"{top.path}: a LoRA run stands on a whole model, and {', '.join(drawn)} is in none of what was named; "
                "put the file that holds it before it with --model-base"
            )
        model = build_partial(config, top.config, bottom, state, dtype)
    for layer in layers:
        _merge(model, layer)
    top.report.warnings = [*top.format.warnings(model.config), *([_drawn_warning(drawn)] if drawn else [])]
    top.report.drawn = [name for name in model.state_dict() if name.startswith(tuple(part + "." for part in drawn))]
    return model, top.report


def put_on(model: VideoLM, layer: Layer) -> None:
    """Copy a layer's connectors into the model, then merge its adapter.

    Raises:
        UserError: the model has no such weight.
    """
    _copy_connectors(model, layer.state, layer.path)
    _merge(model, layer)


@torch.no_grad()
def _copy_connectors(model: VideoLM, state: dict[str, Tensor], path: Path) -> None:
    parameters = dict(model.named_parameters())
    for name, tensor in state.items():
        if name not in parameters or parameters[name].shape != tensor.shape:
            raise UserError(f"{path}: the model has no weight {name!r} of shape {tuple(tensor.shape)}")
        parameters[name].copy_(tensor)


def _merge(model: VideoLM, layer: Layer) -> None:
    if layer.adapter is not None:
        adapters.merge(model, layer.adapter, layer.format.keys, layer.path)


def require_layer(place: str | Path, system: str) -> Layer:
    """The part of a model of ``system`` at a file, folder or hub id; UserError for anything else."""
    path = locate(str(place))
    layer = read_layer(path, system)
    if layer is None:
        raise UserError(f"{path}: is a whole model; it can only stand at the bottom of --model-base")
    return layer


def _holds(state: dict[str, Tensor], component: str) -> bool:
    return any(name.startswith(component + ".") for name in state)


def _is_layer(path: Path, system: str) -> bool:
    try:
        return read_layer(path, system) is not None
    except UserError:
        return False


def _drawn_warning(components: Sequence[str]) -> str:
    return f"{', '.join(components)} started from random weights, for no file holds them: to be trained before use"


def _file_names() -> tuple[str, ...]:
    formats = [format for name in SYSTEMS.names() for format in SYSTEMS[name].publication.formats]
    return tuple(dict.fromkeys(f.file_name for f in formats if f.partial and not f.adapter))
