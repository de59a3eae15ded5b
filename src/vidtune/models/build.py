"""Building a model from a recipe: from a whole checkpoint, from published parts, or from sizes alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase

from vidtune.errors import UserError
from vidtune.models.checkpoints import LoadReport, load_checkpoint, model_from_state, read_config, rename
from vidtune.models.config import VideoLMConfig
from vidtune.models.formats import KeyMap
from vidtune.models.hub import locate
from vidtune.models.tensor_files import read_state
from vidtune.models.video_lm import VideoLM
from vidtune.processing.tokenizing import load_tokenizer
from vidtune.recipe import Recipe
from vidtune.systems import get_system
from vidtune.systems.base import System

if TYPE_CHECKING:
    from vidtune.processing.processor import VideoLMProcessor

LANGUAGE_MODEL_KEYS = KeyMap((("", "language_model."),), (r".*\.rotary_emb\.inv_freq$",))


def build_model(recipe: Recipe, dtype: torch.dtype | None = None) -> VideoLM:
    """The model a recipe's first stage starts from; parts without weights are drawn from ``recipe.seed``.

    Args:
        dtype: of all parameters; None keeps that of the weights (float32 when all are drawn).

    Raises:
        UserError: weights that cannot be found or do not fit, sizes that contradict each other.
    """
    torch.manual_seed(recipe.seed)
    if recipe.checkpoint:
        return load_checkpoint(recipe.checkpoint, tokenizer=recipe.tokenizer, dtype=dtype).model
    system = get_system(recipe.system)
    config = build_config(recipe)
    weights: list[tuple[str, Any, KeyMap]] = [
        (f"towers.{name}", spec, _below(system.tower_keys, f"towers.{name}.")) for name, spec in recipe.towers.items()
    ]
    weights += [(f"connectors.{name}", spec, _connector_keys(system)) for name, spec in recipe.connectors.items()]
    weights += [("language_model", recipe.language_model, LANGUAGE_MODEL_KEYS)]
    return _assemble(config, [(name, spec, keys) for name, spec, keys in weights if isinstance(spec, str)], dtype)


def build_config(recipe: Recipe) -> VideoLMConfig:
    """The config of the model that a recipe without ``checkpoint`` describes; reads no weights."""
    towers = {name: _tower_sizes(get_system(recipe.system), spec) for name, spec in recipe.towers.items()}
    connectors = {name: spec for name, spec in recipe.connectors.items() if isinstance(spec, dict)}
    return _compose(get_system(recipe.system), _text_config(recipe), towers, connectors)


def build_partial(
    system_name: str, config: dict[str, Any], base: str, state: dict[str, Tensor], dtype: torch.dtype | None
) -> VideoLM:
    """A model from connector weights, the language model they were trained for, and the towers their config names."""
    system = get_system(system_name)
    text_config = AutoConfig.from_pretrained(locate(base))
    names = system.tower_names(config)
    towers = {name: _tower_sizes(system, path) for name, path in names.items()}
    composed = _compose(system, text_config, towers, system.connector_sizes(config))
    weights = [(f"towers.{name}", path, _below(system.tower_keys, f"towers.{name}.")) for name, path in names.items()]
    weights += [("language_model", base, LANGUAGE_MODEL_KEYS)]
    return _assemble(composed, weights, dtype, state)


def build_processor(config: VideoLMConfig, tokenizer: str | Path | PreTrainedTokenizerBase) -> "VideoLMProcessor":
    """The processor of a model: a tokenizer (or its folder) and the preprocessing its system prescribes."""
    from vidtune.processing.processor import StreamSettings, VideoLMProcessor

    system = get_system(config.system)
    preprocessing = system.preprocessing(config)
    streams = {
        name: StreamSettings(
            preprocessing=preprocessing[name],
            placeholder_id=placeholder,
            num_tokens=config.num_tokens(name, preprocessing[name].output_shape()),
            num_placeholders=system.placeholders(config, name),
            max_items=system.max_media.get(name),
        )
        for name, placeholder in config.placeholder_ids.items()
    }
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(locate(str(tokenizer)))
    return VideoLMProcessor(tokenizer, config.system, streams)


def recipe_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The tokenizer a recipe names: its own, its checkpoint's or its language model's.

    Raises:
        UserError: the recipe builds its language model from sizes and names no tokenizer.
    """
    source = recipe.tokenizer or recipe.checkpoint or recipe.language_model
    if not isinstance(source, str):
        raise UserError("the recipe builds its language model from scratch: give the key tokenizer (folder or hub id)")
    return load_tokenizer(locate(source))


def _text_config(recipe: Recipe) -> PreTrainedConfig:
    if isinstance(recipe.language_model, str):
        return AutoConfig.from_pretrained(locate(recipe.language_model))
    sizes, tokens = dict(recipe.language_model or {}), len(recipe_tokenizer(recipe))
    if sizes.setdefault("vocab_size", tokens) < tokens:
        raise UserError(f"language_model: vocab_size {sizes['vocab_size']} is less than the tokenizer's {tokens}")
    try:
        return AutoConfig.for_model(**sizes)
    except (ValueError, TypeError) as error:
        raise UserError(f"language_model: {str(error).splitlines()[0]}") from None


def _tower_sizes(system: System, spec: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(spec, dict):
        return spec
    folder = locate(spec)
    try:
        return system.read_tower_sizes(read_config(folder))
    except (ValueError, KeyError) as error:
        raise UserError(f"{folder}: {error}") from None


def _compose(
    system: System, text_config: PreTrainedConfig, towers: dict[str, Any], connectors: dict[str, Any]
) -> VideoLMConfig:
    try:
        config = system.build_config(text_config, towers, connectors)
        for name in config.towers:
            config.tower(name)
        for name in config.connectors:
            config.connector(name)
    except (ValueError, TypeError) as error:
        raise UserError(f"system {system.name}: {error}") from None
    return config


def _below(keys: KeyMap, prefix: str) -> KeyMap:
    """The same map, its names standing below ``prefix``."""
    return KeyMap(tuple((theirs, prefix + ours) for theirs, ours in keys.prefixes), keys.ignored)


def _connector_keys(system: System) -> KeyMap:
    partial = [format for format in system.formats if format.partial]
    return KeyMap(tuple(pair for format in partial for pair in format.keys.prefixes))


def _assemble(
    config: VideoLMConfig,
    weights: list[tuple[str, str, KeyMap]],
    dtype: torch.dtype | None,
    state: dict[str, Tensor] | None = None,
) -> VideoLM:
    """A model whose named components take the weights at the given paths; the others are drawn."""
    state = dict(state or {})
    for component, path, keys in weights:
        report = LoadReport(component)
        state |= rename(read_state(locate(path)), keys, report)
        report.refuse_gaps(Path(path))
    if not state:
        return VideoLM(config).to(dtype or torch.float32)
    whole = LoadReport("recipe")
    model = model_from_state(config, state, whole, dtype)
    for component, path, _ in weights:
        gaps = [key for key in whole.missing if key.startswith(component + ".")]
        LoadReport(component, missing=gaps).refuse_gaps(Path(path))
    whole.missing = []
    whole.refuse_gaps(Path("recipe"))
    return model
