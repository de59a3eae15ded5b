"""Fill a model with the weights of a source: its base first, then in order every part that changes it.

The order is: a whole model or parts, differences to its language model, towers that complete it, connectors, LoRA
runs, the adapters of bundles. Of two sources with the same connector the later one wins. Adapters are merged one after
the other, and each sum is rounded to the dtype of the weights.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock

import torch
from torch import Tensor
from transformers import GenerationConfig

from vidtune.checkpoints.composition import config_of, rows_of_delta, tokens_with_rows, unreadable_config
from vidtune.checkpoints.files.tensors import is_finite, require_floating
from vidtune.checkpoints.fill import (
    Dtypes,
    cast,
    drawn_weights,
    holds,
    model_from_state,
    require_not_vanished,
    under_every_name,
)
from vidtune.checkpoints.lora.adapter_files import Adapter, official_name, read_adapter
from vidtune.checkpoints.lora.added_rows import put_rows, weights_with_rows, with_new_rows
from vidtune.checkpoints.lora.bundle import OTHERS, SAMPLE, bundle_adapters, first_difference
from vidtune.checkpoints.lora.merging import merge
from vidtune.checkpoints.parts import generation
from vidtune.checkpoints.parts.claims import connector_format
from vidtune.checkpoints.parts.difference import add_difference
from vidtune.checkpoints.parts.language_model import language_model_keys, read_text_config
from vidtune.checkpoints.publication import CONFIG_ERRORS, KeyMap
from vidtune.checkpoints.recognise import HOW
from vidtune.checkpoints.report import OURS, LoadReport, rename
from vidtune.checkpoints.source import Source
from vidtune.errors import UserError
from vidtune.models.config import ADDED_TOKENS, VideoLMConfig
from vidtune.models.initial import without_values
from vidtune.models.language_model.families import family_of
from vidtune.models.language_model.head import tied_names
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
    layers = [_read_layer(one) for one in above]
    _require_different(layers)
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
        _require_whole_parts(layer.source, names, model)
        report = layer.put_on(model)
    _keep_drawn(of_base, report, layers, set().union(*held))
    report.warnings += [note for one in source.steps() for note in one.notes]
    if drawn:
        said = f"{', '.join(drawn)} started from random weights, for no file holds them: to be trained before use"
        report.warnings.append(said)
        report.drawn = [name for name in model.state_dict() if name.startswith(tuple(part + "." for part in drawn))]
    return model, report


def _require_different(layers: Sequence["_Layer"]) -> None:
    """Raise UserError where two runs hold one adapter, which would be merged twice; a bundle knows its own base."""
    seen: list[_Layer] = []
    for layer in (one for one in layers if one.adapters and one.source.kind != "bundle"):
        for other in seen:
            pairs = zip(layer.adapters, other.adapters, strict=False)
            if len(layer.adapters) == len(other.adapters) and all(one.same_as(two) for (one, _), (two, _) in pairs):
                raise UserError(f"{layer.source.path}: its adapter is that of {other.source.path}; name one of them")
        seen.append(layer)


def _require_whole_parts(source: Source, names: Collection[str], model: VideoLM) -> None:
    """Raise UserError where a run on a whole model does not hold all weights of the parts that were trained with it."""
    if source.format is None or not source.format.on_whole_models:
        return
    parts = tuple(part + "." for part in source.format.partial)
    wanted = (name for name, _ in model.named_parameters(remove_duplicate=False) if name.startswith(parts))
    missing = [name for name in wanted if name not in names]
    LoadReport(source.format.name, missing=missing).refuse_gaps(source.path)


def _keep_drawn(below: LoadReport, report: LoadReport, layers: Sequence["_Layer"], filled: Collection[str]) -> None:
    """Report the drawn weights of a base that nothing above fills. Raises UserError where a LoRA run stands on them."""
    left = [name for name in below.drawn if name not in filled]
    if below is report or not left:
        return
    run = next((layer.source for layer in layers if layer.source.kind == "run"), None)
    if run is not None:
        raise UserError(f"{run.path}: {len(left)} keys are in none of what was named, first {left[0]!r}")
    report.drawn = left
    report.warnings = [*below.warnings, *report.warnings]


def require_bottom(source: Source) -> None:
    """Raise UserError where layers stand on nothing."""
    bottom = source.in_order()[0]
    if bottom.is_layer:
        partial = ", ".join(bottom.format.partial) + " only" if bottom.format else bottom.kind
        held = "differences to a language model" if bottom.kind == "delta" else partial
        raise UserError(f"{bottom.path}: holds {held}; name its language model {HOW}")


@dataclass
class _Layer:
    """What stands on a model, read and ready to be put on it.

    Args:
        connectors: weights that replace those of the model, under our names: connectors of a published layer, or what a
            bundle holds of parts that were trained fully.
        report: report of reading it.
        adapters: pairs of an adapter and the key map from its names to ours.
        difference: differences to the weights of the language model, under our names.
        rows: rows of added tokens, by the names of their component.
    """

    source: Source
    connectors: dict[str, Tensor]
    report: LoadReport
    adapters: list[tuple[Adapter, KeyMap]]
    difference: dict[str, Tensor]
    rows: dict[str, Tensor]

    @torch.no_grad()
    def put_on(self, model: VideoLM) -> LoadReport:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        if self.source.kind == "bundle":
            _require_its_base(self.source, parameters)
            what = f"{self.source.path / OTHERS}: the base"
        else:
            what = f"{self.source.path}: the model"
        for name, tensor in self.connectors.items():
            require_floating(name, tensor, self.source.path)
            if name not in parameters or parameters[name].shape != tensor.shape:
                raise UserError(f"{what} has no weight {name!r} of shape {tuple(tensor.shape)}")
            parameters[name].copy_(tensor)
            require_not_vanished(name, tensor, parameters[name], self.source.path)
        put_rows(model, self.rows, self.source.path)
        for adapter, keys in self.adapters:
            merge(model, adapter, keys, self.source.path)
        if self.source.format is not None:
            self.report.warnings = list(self.source.format.warnings(model.config))
        return self.report


def _read_layer(source: Source) -> _Layer:
    files, format = source.files, source.format
    assert files is not None
    if source.manifest is not None:
        found = bundle_adapters(files, source.manifest)
        state = dict(files.tensors((OTHERS,)))
        adapters = [(adapter, KeyMap((("", component + "."),))) for component, adapter in found.items()]
        report = LoadReport(OURS, len(state))
    else:
        assert format is not None
        weights = source.weights
        report = LoadReport(format.name)
        state = rename({official_name(name): weights[name] for name in weights}, format.keys, report)
        report.refuse_gaps(source.path)
        adapters = [(read_adapter(files), format.keys)] if source.kind == "run" else []
    report.loaded += sum(2 * len(adapter.factors) for adapter, _ in adapters)
    rows = {name: state.pop(name) for name in list(state) if name.startswith(ADDED_TOKENS + ".")}
    names = [name for name in state if source.kind == "delta" and name.startswith("language_model.")]
    return _Layer(source, state, report, adapters, {name: state.pop(name) for name in names}, rows)


def _require_its_base(bundle: Source, parameters: Mapping[str, Tensor]) -> None:
    """Raise UserError unless a model is the one on which the adapters of a bundle were trained."""
    assert bundle.files is not None and bundle.manifest is not None
    different = first_difference(bundle.files.tensors((SAMPLE,)), parameters)
    if different is not None:
        below = bundle.children[0]
        place = "its parts make now" if below.seed is not None else below.place
        raise UserError(
            f"{bundle.path}: its adapters were trained on another model than {place}: {different} differs; give the "
            "right one with --model-base"
        )


def _undetermined(config: VideoLMConfig, below: Mapping[str, Tensor], layers: Sequence[_Layer]) -> list[str]:
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
    delta: "_Layer | None" = None,
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
        raise UserError(f"language_model: {' '.join(str(error).split()) or type(error).__name__}") from None


def whole_language_model(
    part: Source, found: dict[str, Tensor], config: VideoLMConfig, delta: "_Layer | None" = None
) -> dict[str, Tensor]:
    """Return the weights of a language model with the differences to it, and with rows for added tokens."""
    trained = tokens_with_rows(part, config.added_tokens) if config.added_tokens else set()
    if delta is not None:
        with without_values():
            tied = tied_names(VideoLM(config))
        _require_rows(delta, config)
        for name, tensor in found.items():
            require_floating(name, tensor, part.path)
        found = add_difference(under_every_name(found, tied, part.path), delta.difference, delta.source.path)
        rows = read_text_config(part).vocab_size  # what is longer in the differences was trained with them
        trained |= {text for text, id in config.added_tokens.items() if id >= rows}
        trained |= tokens_with_rows(delta.source, config.added_tokens) if delta.source.has_tokenizer else set()
    return with_new_rows(found, config, trained) if config.added_tokens else found


def _require_rows(delta: "_Layer", config: VideoLMConfig) -> None:
    """Raise UserError where the matrices of a delta have fewer rows than its own vocabulary."""
    rows = rows_of_delta(delta.source) or 0
    for name in weights_with_rows(config):
        held = delta.difference.get(name)
        if held is not None and len(held) < rows:
            raise UserError(f"{delta.source.path}: {name}: {len(held)} rows, but vocab_size in its config is {rows}")


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
