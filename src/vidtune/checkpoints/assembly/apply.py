"""Fill a model with the weights of a source: its base first, then in order every part that changes it.

The order is: a whole model or parts, differences to its language model, towers that complete it, connectors, LoRA
runs, the adapters of bundles. Of two sources with the same connector the later one wins. Adapters are merged one after
the other, and each sum is rounded to the dtype of the weights.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import RLock

import torch
from torch import Tensor
from transformers import GenerationConfig

from vidtune.checkpoints.assembly.composition import config_of, unreadable_config
from vidtune.checkpoints.assembly.fill import (
    Dtypes,
    cast,
    drawn_weights,
    holds,
    model_from_state,
)
from vidtune.checkpoints.assembly.layer import (
    Layer,
    keep_drawn,
    read_layer,
    require_different,
    require_whole_parts,
    whole_language_model,
)
from vidtune.checkpoints.files.tensors import is_finite
from vidtune.checkpoints.lora.added_rows import put_rows
from vidtune.checkpoints.parts import generation
from vidtune.checkpoints.parts.claims import connector_format
from vidtune.checkpoints.parts.language_model import language_model_keys
from vidtune.checkpoints.publication import CONFIG_ERRORS, KeyMap, in_plain_words
from vidtune.checkpoints.recognise import HOW
from vidtune.checkpoints.report import OURS, LoadReport, rename
from vidtune.checkpoints.source import Source
from vidtune.errors import UserError
from vidtune.models.config import ADDED_TOKENS, VideoLMConfig
from vidtune.models.initial import without_values
from vidtune.models.language_model.families import family_of
from vidtune.models.video_lm import VideoLM

_ONE_AT_A_TIME = RLock()
"""transformers replaces methods of its classes while it builds a model; two threads would restore the wrong ones."""


def assemble(
    source: Source, dtype: Dtypes = None, reports: list[LoadReport] | None = None
) -> tuple[VideoLM, LoadReport]:
    """Build the model of a source on CPU and fill it.

    Args:
        dtype: see :data:`Dtypes`; float32 where all weights are drawn. Weights are drawn in float32 and do not depend
            on it.
        reports: if given, collects the report of every published part.

    Returns:
        The merged model, and the report of the source.
    Raises:
        UserError: keys missing or unexpected, shapes that do not fit, nothing to stand on, or weights that are not
            finite, in a file or in the dtype.
    """
    with _ONE_AT_A_TIME:
        model, report = _assemble(source, dtype, reports)
    for name, tensor in model.state_dict().items():
        if not is_finite(tensor):
            raise UserError(f"{source.place}: {name}: {_too_large(tensor.dtype)}")
    return model, report


def without_weights(source: Source) -> VideoLM:
    """Return the model of a source with shapes alone, on the meta device."""
    with _ONE_AT_A_TIME, without_values():
        return VideoLM(config_of(source))


def _too_large(dtype: torch.dtype) -> str:
    """Why a weight is not finite, of files that hold finite numbers only."""
    if dtype == torch.float16:
        return "holds values beyond the range of float16 (65504); load it with dtype bfloat16 or float32"
    return "is NaN or Inf after adding what stands on it; check the scale and the base of its adapters or differences"


def _assemble(source: Source, dtype: Dtypes, reports: list[LoadReport] | None) -> tuple[VideoLM, LoadReport]:
    require_bottom(source)
    base, *above = source.in_order()
    layers = [read_layer(one) for one in above]
    require_different(layers)
    held = [set(layer.connectors) for layer in layers]
    config = config_of(source)
    generation.require_token_ids(source, config.text_config)
    towers = _added_towers(base, config)
    drawn: list[str] = []
    seed = next((one.seed for one in (base, *above) if one.seed is not None), None)
    if seed is not None:
        torch.manual_seed(seed)
    if base.kind == "native":
        model, report = _fill_native(base, config, towers, dtype)
    elif base.kind == "published":
        model, report = _fill_published(base, config, towers, dtype)
    else:
        below: dict[str, Tensor] = {}
        delta = layers[0] if layers and layers[0].source.kind == "delta" else None
        if not base.may_draw:  # connectors of all layers are there from the start, the upper ones in front
            for layer in layers:
                below |= layer.connectors
                layer.connectors = {}
            drawn = _undetermined(config, below, layers)
        model, report = _fill_parts(base, config, {**below, **towers}, dtype, reports, delta), LoadReport("recipe")
    generation.take_token_ids(model, source)
    of_base = report
    for layer, names in zip(layers, held, strict=True):
        require_whole_parts(layer.source, names, model)
        report = layer.put_on(model)
    keep_drawn(of_base, report, layers, set().union(*held))
    report.warnings += [note for one in source.steps() for note in one.notes]
    if drawn:
        said = f"{', '.join(drawn)} started from random weights, for no file holds them: to be trained before use"
        report.warnings.append(said)
        report.drawn = [name for name in model.state_dict() if name.startswith(tuple(part + "." for part in drawn))]
    return model, report


def require_bottom(source: Source) -> None:
    """Raise UserError where layers stand on nothing."""
    bottom = source.in_order()[0]
    if bottom.is_layer:
        partial = ", ".join(bottom.format.partial) + " only" if bottom.format else bottom.kind
        held = "differences to a language model" if bottom.kind == "delta" else partial
        raise UserError(f"{bottom.path}: holds {held}; name its language model {HOW}")


def _undetermined(config: VideoLMConfig, below: Mapping[str, Tensor], layers: Sequence[Layer]) -> list[str]:
    """Connectors that no file holds. Raises UserError where a LoRA run stands on them."""
    drawn = [f"connectors.{name}" for name in config.connectors if not holds(below, f"connectors.{name}")]
    if drawn and any(layer.adapters for layer in layers):
        raise UserError(
            f"{layers[-1].source.path}: a LoRA run stands on a whole model, and {', '.join(drawn)} is in none of what "
            "was named; put the file that holds it before it with --model-base"
        )
    return drawn


def _added_towers(source: Source, config: VideoLMConfig) -> dict[str, Tensor]:
    """Weights of the towers that complete a model, under our names. Raises UserError where they do not fit."""
    state: dict[str, Tensor] = {}
    for tower in source.towers:
        name = tower.component.removeprefix("towers.")
        report = LoadReport(f"tower {name}")
        found = rename(tower.weights, tower.tower_file.keys, report)
        with without_values():
            shapes = {key: tensor.shape for key, tensor in config.build_tower(name).state_dict().items()}
        report.missing = [key for key in shapes if key not in found]
        report.unexpected += [key for key in found if key not in shapes]
        report.refuse_gaps(Path(tower.place))
        wrong = next((key for key, shape in shapes.items() if found[key].shape != shape), None)
        if wrong is not None:
            held = tuple(found[wrong].shape)
            raise UserError(f"{tower.place}: {wrong}: shape {held} in the file, {tuple(shapes[wrong])} by its config")
        state |= {f"{tower.component}.{key}": tensor for key, tensor in found.items()}
    return state


def _with_towers(state: Mapping[str, Tensor], towers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with those of added towers in the place of the model's own."""
    replaced = tuple({".".join(name.split(".")[:2]) + "." for name in towers})
    return {**{name: state[name] for name in state if not name.startswith(replaced)}, **towers}


def _fill_native(
    source: Source, config: VideoLMConfig, towers: Mapping[str, Tensor], dtype: Dtypes
) -> tuple[VideoLM, LoadReport]:
    """A model that :meth:`VideoLM.save_pretrained` wrote, strictly."""
    assert source.files is not None
    report = LoadReport(OURS)
    state = _with_towers(source.weights, towers)
    model = model_from_state(config, state, report, dtype, where=source.path, dtype_of_config=dtype is None)
    if source.files.has(generation.FILE):
        model.generation_config = GenerationConfig.from_dict(source.files.json(generation.FILE))
    report.loaded = len(model.state_dict()) - len(report.missing) - len(towers)
    report.refuse_gaps(source.path)
    return model, report


def _fill_published(
    source: Source, config: VideoLMConfig, towers: Mapping[str, Tensor], dtype: Dtypes
) -> tuple[VideoLM, LoadReport]:
    """A whole model in a published format."""
    format = source.format
    assert format is not None
    report = LoadReport(format.name)
    state = _with_towers(rename(source.weights, format.keys, report), towers)
    model = model_from_state(config, state, report, dtype, where=source.path)
    report.drawn = [key for key in report.missing if any(re.match(pattern, key) for pattern in format.drawn)]
    report.missing = [key for key in report.missing if key not in report.drawn]
    report.warnings = list(format.warnings(model.config))
    report.refuse_gaps(source.path)
    return model, report


def _fill_parts(
    source: Source,
    config: VideoLMConfig,
    state: dict[str, Tensor],
    dtype: Dtypes,
    reports: list[LoadReport] | None,
    delta: Layer | None = None,
) -> VideoLM:
    """A model whose placed components take the weights of their files; the others are drawn.

    Args:
        state: weights that are known already; a component that they hold is not read from its file.
        delta: differences to the language model.
    """
    _require_buildable(config, source)
    known, paths = dict(state), {}
    rows: dict[Path, dict[str, Tensor]] = {}
    for part in source.children:
        component = part.component
        if component.startswith("towers.") and holds(known, component):
            continue
        report = LoadReport(component)
        found = rename(part.weights, key_map(part), report)
        report.refuse_gaps(Path(part.place))
        require_some(found, part)
        if part.kind == "language_model":
            found = whole_language_model(part, found, config, delta)
        # A file of several connectors gives only the one for which it is named.
        state = state | {name: tensor for name, tensor in found.items() if name.startswith(component + ".")}
        rows[part.path] = {name: tensor for name, tensor in found.items() if name.startswith(ADDED_TOKENS + ".")}
        paths[component] = Path(part.place)
        if reports is not None:
            reports.append(report)
    if not state:
        return cast(VideoLM(config), {}, dtype or torch.float32)
    whole = LoadReport("recipe")
    model = model_from_state(config, state | drawn_weights(config, list(state)), whole, dtype, where=source.path)
    for component, path in paths.items():
        gaps = [key for key in whole.missing if key.startswith(component + ".")]
        LoadReport(component, missing=gaps).refuse_gaps(path)
    halves = [key for key in whole.missing if key.startswith("connectors.")]
    LoadReport("connectors", missing=halves).refuse_gaps(Path("connectors"))
    whole.missing = []
    whole.refuse_gaps(source.path)
    for path, held in rows.items():
        put_rows(model, held, path)
    return model


def require_some(found: Mapping[str, object], part: Source) -> None:
    """Raise UserError for a file without any weight of the component for which it is named."""
    if not holds(found, part.component):
        raise UserError(
            f"{part.place}: holds no weights of {part.component} (of its {len(part.shapes)} keys); name the file or "
            "folder that holds them"
        )


def _require_buildable(config: VideoLMConfig, source: Source) -> None:
    """Raise UserError where no model can be built of a config, before any weight is read or drawn."""
    where = source.part("language_model")
    try:
        with torch.random.fork_rng(devices=[]), without_values():
            family_of(config.text_config).build(config.text_config)
    except UserError:
        raise
    except CONFIG_ERRORS as error:
        if where is not None:
            raise unreadable_config(where.place, error) from None
        raise UserError(f"language_model: {in_plain_words(error)}") from None


def key_map(part: Source) -> KeyMap:
    """Return the key map from the names in a published file to the names in our model.

    Args:
        part: a published model, what changes one, or the file of one component.
    """
    component = part.component
    if part.format is not None:
        return part.format.keys
    if part.kind == "language_model":
        return language_model_keys(part)
    if part.kind == "tower":
        keys = part.tower_file.keys
        return replace(keys, prefixes=tuple((theirs, f"{component}.{ours}") for theirs, ours in keys.prefixes))
    return connector_format(part).keys
