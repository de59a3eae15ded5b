"""Building a model from a recipe: from a whole checkpoint, from published parts, or from sizes alone."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase

from vidtune.checkpoints.checkpoints import (
    Dtypes,
    LoadReport,
    cast,
    load_checkpoint,
    model_from_state,
    read_config,
    rename,
)
from vidtune.checkpoints.files.hub import locate
from vidtune.checkpoints.files.tensors import read_shapes, read_state
from vidtune.checkpoints.formats import KeyMap
from vidtune.checkpoints.teachers import alignment_sizes
from vidtune.errors import UserError
from vidtune.models.config import VideoLMConfig
from vidtune.models.video_lm import VideoLM
from vidtune.processing.tokenizing import load_tokenizer
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS

if TYPE_CHECKING:
    from vidtune.media.preprocessing.kinds import Preprocessing
    from vidtune.processing.processor import VideoLMProcessor

LANGUAGE_MODEL_KEYS = KeyMap((("", "language_model."),), (r".*\.rotary_emb\.inv_freq$",))


def build_model(recipe: Recipe, dtype: Dtypes = None, reports: list[LoadReport] | None = None) -> VideoLM:
    """The model a recipe's first stage starts from; parts without weights are drawn from ``recipe.seed``.

    Args:
        dtype: of all parameters, or of each component's; None keeps that of the weights (float32 when all are
            drawn). What is drawn is drawn in float32 and does not depend on it.
        reports: takes up what became of the keys of every published part.

    Raises:
        UserError: weights that cannot be found or do not fit, sizes that contradict each other.
    """
    from vidtune.checkpoints.stack import put_on, require_layer

    torch.manual_seed(recipe.seed)
    if recipe.checkpoint:
        model = load_checkpoint(recipe.checkpoint, tokenizer=recipe.tokenizer, dtype=dtype).model
    else:
        model = _assemble(build_config(recipe), published_weights(recipe), dtype, reports=reports)
    for folder in recipe.lora_runs:
        put_on(model, require_layer(folder, recipe.system))
    return model


def published_weights(recipe: Recipe) -> list[tuple[str, str, KeyMap]]:
    """Of every component whose weights the recipe names: where they lie, and their names in ours."""
    weights = _tower_weights(recipe.system, recipe.towers)
    weights += [
        (f"connectors.{name}", spec, _connector_keys(recipe.system)) for name, spec in recipe.connectors.items()
    ]
    weights += [("language_model", recipe.language_model, LANGUAGE_MODEL_KEYS)]
    return [(name, spec, keys) for name, spec, keys in weights if isinstance(spec, str)]


def _tower_weights(system: str, towers: Mapping[str, Any]) -> list[tuple[str, Any, KeyMap]]:
    files = SYSTEMS[system].publication
    return [
        (f"towers.{name}", spec, _below(files.tower(name).keys, f"towers.{name}."))
        for name, spec in towers.items()
        if isinstance(spec, str)
    ]


def build_config(recipe: Recipe, text_config: PreTrainedConfig | None = None) -> VideoLMConfig:
    """The config of the model that a recipe without ``checkpoint`` describes; reads no weights.

    Args:
        text_config: of the language model; None: as the recipe says.
    """
    towers = {name: tower_sizes(recipe.system, name, spec) for name, spec in recipe.towers.items()}
    connectors = {name: spec for name, spec in recipe.connectors.items() if isinstance(spec, dict)}
    config = _compose(recipe.system, text_config or _text_config(recipe), towers, connectors)
    config.alignments = alignment_sizes(recipe, config)
    return config


def partial_config(system_name: str, config: dict[str, Any], base: str) -> VideoLMConfig:
    """The config of a model of which only connectors were published.

    Args:
        config: the config.json beside them; empty without one.
        base: the language model they were trained for.
    """
    named = SYSTEMS[system_name].publication.named_parts(config)
    towers = {name: tower_sizes(system_name, name, spec) for name, spec in named.towers.items()}
    return _compose(system_name, read_text_config(base), towers, dict(named.connectors))


def build_partial(
    ours: VideoLMConfig, config: dict[str, Any], base: str, state: dict[str, Tensor], dtype: Dtypes
) -> VideoLM:
    """A model from connector weights, the language model they were trained for, and the towers their config names.

    Args:
        ours: what :func:`partial_config` made of ``config``.
        state: connectors; those it does not hold are drawn.
    """
    named = SYSTEMS[ours.system].publication.named_parts(config)
    weights = [*_tower_weights(ours.system, named.tower_places), ("language_model", base, LANGUAGE_MODEL_KEYS)]
    return _assemble(ours, weights, dtype, state)


def build_processor(config: VideoLMConfig, tokenizer: str | Path | PreTrainedTokenizerBase) -> "VideoLMProcessor":
    """The processor of a model: a tokenizer (or its folder) and the preprocessing its system prescribes."""
    from vidtune.processing.processor import VideoLMProcessor
    from vidtune.processing.stream_settings import StreamSettings

    system = SYSTEMS[config.system]
    preprocessing = system.architecture.preprocessing(config)
    streams = {
        name: StreamSettings(
            preprocessing=preprocessing[name],
            placeholder_id=placeholder,
            num_tokens=_token_counts(config, name, preprocessing[name]),
            num_placeholders=system.architecture.placeholders(config, name),
            max_items=system.dialect.max_media.get(name),
            absent_tower=_absent_tower(config, name),
            **_feature_shape(config, name, preprocessing[name]),
        )
        for name, placeholder in config.placeholder_ids.items()
    }
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(locate(str(tokenizer), weights=False))
    return VideoLMProcessor(tokenizer, config.system, streams)


def _absent_tower(config: VideoLMConfig, stream: str) -> tuple[str, str] | None:
    """The stream's tower and what it is published as, where the model is without it."""
    name = config.streams[stream]["tower"]
    return (name, config.towers[name]["absent"]) if name in config.absent_towers else None


def _token_counts(config: VideoLMConfig, stream: str, preprocessing: "Preprocessing") -> int | dict[str, int] | str:
    """Tokens of an item; by shape where they depend on it, by row where there may be any number of rows."""
    counts = {shape: config.num_tokens(stream, shape) for shape in preprocessing.output_shapes()}
    if not counts:
        tower: Any = config.tower(config.streams[stream]["tower"])
        return str(tower.tokens_per_row)
    if len(counts) == 1:
        return next(iter(counts.values()))
    return {"x".join(map(str, shape)): tokens for shape, tokens in counts.items()}


def _feature_shape(config: VideoLMConfig, stream: str, preprocessing: "Preprocessing") -> dict[str, int]:
    """Rows, where every item has as many, and width of what the stream's tower gives."""
    tower = config.tower(config.streams[stream]["tower"])
    rows = {tower.num_tokens(shape) for shape in preprocessing.output_shapes()}
    found = {"feature_size": tower.hidden_size}
    return {**found, "feature_rows": rows.pop()} if len(rows) == 1 else found


def recipe_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The tokenizer a recipe names: its own, its checkpoint's or its language model's.

    Raises:
        UserError: the recipe builds its language model from sizes and names no tokenizer.
    """
    source = recipe.tokenizer or recipe.checkpoint or recipe.language_model
    if not isinstance(source, str):
        raise UserError("the recipe builds its language model from scratch: give the key tokenizer (folder or hub id)")
    return load_tokenizer(locate(source, weights=False))


def _text_config(recipe: Recipe) -> PreTrainedConfig:
    if isinstance(recipe.language_model, str):
        return read_text_config(recipe.language_model)
    sizes, tokens = dict(recipe.language_model or {}), len(recipe_tokenizer(recipe))
    if sizes.setdefault("vocab_size", tokens) < tokens:
        raise UserError(f"language_model: vocab_size {sizes['vocab_size']} is less than the tokenizer's {tokens}")
    try:
        return AutoConfig.for_model(**sizes)
    except (ValueError, TypeError) as error:
        raise UserError(f"language_model: {str(error).splitlines()[0]}") from None


def read_text_config(place: str) -> PreTrainedConfig:
    """The config of the language model in a folder or hub repository; UserError where there is none."""
    path = locate(place, weights=False)
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{place}: holds no language model ({str(error).splitlines()[0]})") from None


def tower_sizes(system: str, name: str, spec: str | dict[str, Any]) -> dict[str, Any]:
    """Sizes of a tower: as given, or as the place of its weights tells. Raises UserError where it does not."""
    if isinstance(spec, dict):
        return spec
    path = locate(spec, weights=False)
    settings, shapes = read_shapes(path) if path.is_file() else (read_config(path), {})
    try:
        return SYSTEMS[system].publication.tower(name).read_sizes(settings, shapes)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    except KeyError as error:
        raise UserError(f"{path}: does not tell {error}") from None


def _compose(
    system: str, text_config: PreTrainedConfig, towers: dict[str, Any], connectors: dict[str, Any]
) -> VideoLMConfig:
    try:
        config = SYSTEMS[system].architecture.build_config(text_config, towers, connectors)
        for name in config.towers:
            config.tower(name)
        for name in config.connectors:
            config.connector(name)
    except (ValueError, TypeError) as error:
        raise UserError(f"system {system}: {error}") from None
    return config


def _below(keys: KeyMap, prefix: str) -> KeyMap:
    """The same map, its names standing below ``prefix``."""
    return replace(keys, prefixes=tuple((theirs, prefix + ours) for theirs, ours in keys.prefixes))


def _connector_keys(system: str) -> KeyMap:
    partial = [format for format in SYSTEMS[system].publication.formats if format.partial and not format.adapter]
    return KeyMap(tuple(pair for format in partial for pair in format.keys.prefixes))


def _assemble(
    config: VideoLMConfig,
    weights: list[tuple[str, str, KeyMap]],
    dtype: Dtypes,
    state: dict[str, Tensor] | None = None,
    reports: list[LoadReport] | None = None,
) -> VideoLM:
    """A model whose named components take the weights at the given paths; the others are drawn."""
    state = dict(state or {})
    for component, path, keys in weights:
        report = LoadReport(component)
        found = rename(read_state(locate(path)), keys, report)
        report.refuse_gaps(Path(path))
        # A file of several connectors gives the one that it is named for.
        state |= {name: tensor for name, tensor in found.items() if name.startswith(component + ".")}
        if reports is not None:
            reports.append(report)
    if not state:
        return cast(VideoLM(config), {}, dtype or torch.float32)
    whole = LoadReport("recipe")
    model = model_from_state(config, state | _drawn(config, list(state)), whole, dtype)
    for component, path, _ in weights:
        gaps = [key for key in whole.missing if key.startswith(component + ".")]
        LoadReport(component, missing=gaps).refuse_gaps(Path(path))
    halves = [key for key in whole.missing if key.startswith("connectors.")]
    LoadReport("connectors", missing=halves).refuse_gaps(Path("connectors"))
    whole.missing = []
    whole.refuse_gaps(Path("recipe"))
    return model


def _drawn(config: VideoLMConfig, names: list[str]) -> dict[str, Tensor]:
    """Random weights, in float32, of the components that have none among ``names``."""
    builders: dict[str, Callable[[], nn.Module]] = {
        **{f"towers.{name}": config.tower(name).build for name in config.towers if name not in config.absent_towers},
        **{f"connectors.{name}": config.connector(name).build for name in config.connectors},
        **{f"alignments.{name}": config.alignment(name).build for name in config.alignments},
        "language_model": lambda: AutoModelForCausalLM.from_config(config.text_config),
    }
    drawn: dict[str, Tensor] = {}
    for component, build in builders.items():
        if not any(name.startswith(component + ".") for name in names):
            part = build()
            if component != "language_model":
                part.apply(_reset)
            drawn |= {f"{component}.{name}": tensor for name, tensor in part.state_dict().items()}
    return drawn


def _reset(module: nn.Module) -> None:
    """As :class:`VideoLM` starts the modules of its towers and connectors."""
    reset = getattr(module, "reset_parameters", None)
    if reset is not None:
        reset()
