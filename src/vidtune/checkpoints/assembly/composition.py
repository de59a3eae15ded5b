"""Config of the model that a source makes; reads configs and shapes, no weight."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from vidtune.checkpoints.files.folder import CheckpointFiles
from vidtune.checkpoints.files.settings import KnownSettings
from vidtune.checkpoints.lora.adapter_files import official_name
from vidtune.checkpoints.lora.bundle import MANIFEST
from vidtune.checkpoints.parts.language_model import read_text_config, require_causal, require_usable
from vidtune.checkpoints.parts.model_settings import (
    names_of,
    require_one_rotary,
    require_usable_numbers,
    settings_of,
)
from vidtune.checkpoints.parts.processor_settings import require_same
from vidtune.checkpoints.publication import CONFIG_ERRORS, PROCESSOR_FILES, JsonDict, in_plain_words
from vidtune.checkpoints.source import Source
from vidtune.checkpoints.teachers import alignment_sizes
from vidtune.errors import RecipeError, UserError
from vidtune.foreign.model_settings import OF_NO_WEIGHTS
from vidtune.models.architecture import composed_config, require_config
from vidtune.models.config import VideoLMConfig
from vidtune.models.initial import without_values
from vidtune.models.language_model.families import config_class
from vidtune.processing.added_tokens import add_tokens, lacking_tokens, require_rows, rows_needed
from vidtune.processing.tokenizer import load_tokenizer
from vidtune.recipe.mistakes import of_recipe
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS
from vidtune.spelling import suggestion


def unreadable_config(where: str | Path, error: Exception) -> UserError:
    """Return the error to raise for a config.json of which no model can be built."""
    return UserError(f"{where}: config.json: {in_plain_words(error)}")


def config_of(source: Source, text_config: PreTrainedConfig | None = None) -> VideoLMConfig:
    """Return the config of the model that a source makes, with the towers that complete it.

    Args:
        text_config: config of the language model of parts; None: as the recipe says.

    Raises:
        UserError: sizes that contradict each other, or that cannot be found.
    """
    base, *above = source.in_order()
    if base.kind == "native":
        config = _native_config(base)
    elif base.kind == "parts":
        bundle = next((one.path / MANIFEST for one in above if one.kind == "bundle"), None)
        with of_recipe(bundle):  # which names the parts of the model
            config = _config_of_parts(base, text_config, above[0] if above and above[0].kind == "delta" else None)
    else:
        config = _published_config(base)
    for tower in base.towers:
        replace_tower(config, tower)
    for layer in above:
        _take_settings(config, layer)
    return config


def _take_settings(config: VideoLMConfig, layer: Source) -> None:
    """Put what the files of a layer say into the config of the model on which it stands."""
    if layer.format is None or layer.format.take_settings is None:
        return
    shapes = {official_name(name): shape for name, shape in layer.shapes.items()}
    try:
        layer.format.take_settings(config, layer.config, shapes)
        for name in config.connectors:
            config.connector(name)
    except CONFIG_ERRORS as error:
        raise unreadable_config(layer.path, error) from None


def _native_config(source: Source) -> VideoLMConfig:
    known = settings_of(VideoLMConfig) | KnownSettings(read=frozenset({"packages", "tie_word_embeddings"}))
    known.require(source.config, f"{source.path}/config.json")
    try:
        config: VideoLMConfig = VideoLMConfig.from_dict(source.config)
        require_usable(config.text_config)
        require_one_rotary(source.config.get("text_config") or {})
        for name in config.towers:
            config.tower(name)
        for name in config.connectors:
            config.connector(name)
    except StrictDataclassError as error:  # of the language model: parts of ours say what is wrong by themselves
        raise unreadable_config(source.path, ValueError(f"text_config: {error}")) from None
    except CONFIG_ERRORS as error:
        raise unreadable_config(source.path, error) from None
    if config.dtype is not None and not isinstance(config.dtype, torch.dtype):
        raise UserError(f"{source.path}: config.json: dtype is {config.dtype!r}; expected one such as 'bfloat16'")
    return config


def _published_config(source: Source) -> VideoLMConfig:
    assert source.format is not None and source.format.read_config is not None
    try:
        config = source.format.read_config(source.config, dict(source.shapes))
    except CONFIG_ERRORS as error:
        raise unreadable_config(source.path, error) from None
    require_config(config, str(source.system), f"read_config of format {source.format.name}")
    if source.format.read_preprocessing is None and source.files is not None:
        files = {name: source.files.json(name) for name in PROCESSOR_FILES if source.files.has(name)}
        if files:
            require_same(files, SYSTEMS[config.system].architecture.preprocessing(config), str(source.path))
    tokens = SYSTEMS[config.system].dialect.added_tokens
    if tokens:
        tokenizer = load_tokenizer(source.path)
        require_tokens(tokenizer, [token.text for token in tokens], source.path)
        config.added_tokens = add_tokens(tokenizer, tokens)
    return config


def require_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], where: Path) -> None:
    """Raise UserError where the tokenizer of a whole model lacks a token that its system adds."""
    lacking = lacking_tokens(tokenizer, list(texts))
    if lacking:
        raise UserError(
            f"{where}: its tokenizer lacks {', '.join(lacking)}, for which the model was trained; copy the files of "
            "the tokenizer that was saved with it"
        )


def _config_of_parts(
    source: Source, text_config: PreTrainedConfig | None, delta: Source | None = None
) -> VideoLMConfig:
    recipe, system = source.recipe, str(source.system)
    assert recipe is not None
    towers = {}
    for name, spec in recipe.towers.items():
        part = source.part(f"towers.{name}")
        if part is not None and (name in SYSTEMS[system].publication.towers or part.is_of_whole_model):
            with named_by(part.component):
                towers[name] = tower_sizes(part)
        elif not isinstance(spec, str):
            towers[name] = spec
    connectors = {name: spec for name, spec in recipe.connectors.items() if isinstance(spec, dict)}
    added: dict[str, int] = {}
    if text_config is None:
        text_config = _text_config(source, recipe)
        if delta is not None:
            text_config.vocab_size = max(text_config.vocab_size, rows_of_delta(delta) or 0)
        added = _add_tokens(recipe, text_config)
    try:
        config = composed_config(system, text_config, towers, connectors, f"system {system}")
    except UserError as error:
        raise RecipeError(str(error)) from error
    _require_known(system, "tower", recipe.towers, config.towers)
    _require_known(system, "connector", recipe.connectors, config.connectors)
    for name, spec in recipe.towers.items():
        if isinstance(spec, str) and (part := source.part(f"towers.{name}")) is not None:
            _ = part.tower_file
    config.added_tokens = added
    config.alignments = alignment_sizes(recipe, config)
    return config


def rows_of_delta(delta: Source) -> int | None:
    """Return the length of the vocabulary that a delta names; None where it names none.

    Raises:
        UserError: ``vocab_size`` is no positive whole number.
    """
    rows = delta.config.get("vocab_size")
    if rows is not None and (type(rows) is not int or rows <= 0):
        raise UserError(f"{delta.path}: config.json: vocab_size is {rows!r}; expected a positive whole number")
    return rows


def _require_known(system: str, what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise UserError for a tower or connector of a recipe that the system does not have."""
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise RecipeError(f"{what}s: system {system} has no {what} {unknown!r}; {suggestion(unknown, known)}")


def _text_config(source: Source, recipe: Recipe) -> PreTrainedConfig:
    part = source.part("language_model")
    if part is not None:
        with named_by(part.component):
            return read_text_config(part)
    assert not isinstance(recipe.language_model, str)
    added = [token.text for token in SYSTEMS[recipe.system].dialect.added_tokens]
    sizes, tokens = dict(recipe.language_model or {}), rows_needed(recipe_tokenizer(recipe), added)
    if sizes.setdefault("vocab_size", tokens) < tokens:
        raise RecipeError(f"language_model: vocab_size {sizes['vocab_size']} is less than the tokenizer's {tokens}")
    try:
        kind = config_class(str(sizes.pop("model_type", "")))
        known = names_of(kind) - {*OF_NO_WEIGHTS}
        unknown = next((key for key in sizes if key not in known), None)
        if unknown is not None:
            raise ValueError(f"a {kind.model_type} has no {unknown!r}; {suggestion(unknown, known)}")
        require_usable_numbers(sizes)
        config = kind(**sizes)
        require_usable(config)
    except CONFIG_ERRORS as error:
        raise RecipeError(f"language_model: {in_plain_words(error)}") from None
    require_causal(config, "language_model")
    return config


def _add_tokens(recipe: Recipe, text_config: PreTrainedConfig) -> dict[str, int]:
    """The ids of the tokens that the system adds; a vocabulary that is too small for them grows."""
    tokens = SYSTEMS[recipe.system].dialect.added_tokens
    if not tokens:
        return {}
    tokenizer = recipe_tokenizer(recipe)
    ids = add_tokens(tokenizer, tokens)
    require_rows(tokenizer, text_config.vocab_size, ids)
    text_config.vocab_size = max(text_config.vocab_size, rows_needed(tokenizer))
    return ids


def tokens_with_rows(part: Source, texts: Iterable[str]) -> set[str]:
    """Return the added tokens for which a language model has rows already: those that its own tokenizer knows."""
    try:
        lacking = lacking_tokens(load_tokenizer(part.path), list(texts))
    except UserError:  # no tokenizer beside the weights
        return set()
    return set(texts) - set(lacking)


def recipe_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """Return the tokenizer that a recipe names: its own, that of its checkpoint or of its language model.

    Raises:
        UserError: the recipe builds its language model from sizes and names no tokenizer.
    """
    named: dict[str, object] = {"checkpoint": recipe.starting_place, "language_model": recipe.language_model}
    if recipe.tokenizer:
        named = {"tokenizer": recipe.tokenizer}
    places = [_named_files(key, place) for key, place in named.items() if isinstance(place, str)]
    if not places:
        raise RecipeError("the recipe builds its language model from scratch: name a tokenizer (folder or hub id)")
    with named_by(" or ".join(named)):
        return load_tokenizer(next((files for files in places if files.has_tokenizer), places[0]).path)


def _named_files(key: str, place: str) -> CheckpointFiles:
    """The files at a place that a key of a recipe names. Raises RecipeError, which names the key, if there are none."""
    with named_by(key):
        return CheckpointFiles(place)


@contextmanager
def named_by(key: str) -> Iterator[None]:
    """Context manager in which what a recipe names is read: the message of an error begins with the key."""
    try:
        yield
    except RecipeError:
        raise
    except UserError as error:
        raise RecipeError(f"{key}: {error}") from None


def tower_sizes(source: Source) -> JsonDict:
    """Return the sizes of a tower, as its config.json or its single file tells.

    Raises:
        UserError: they do not tell, or it is a tower of another kind.
    """
    files = source.files
    assert files is not None
    if files.is_one_file:
        settings, shapes = source.weights.settings, source.shapes
    else:
        settings, shapes = files.require_config(), {}
    tower = source.tower_file
    try:
        sizes = tower.read_sizes(settings, shapes)
    except CONFIG_ERRORS as error:
        raise UserError(f"{source.path}: {in_plain_words(error)}") from None
    if tower.settings is not None and not shapes:
        tower.settings.require(settings, f"{source.path}/config.json")
    return sizes


def replace_tower(config: VideoLMConfig, tower: Source) -> None:
    """Put the sizes of a tower into a config, in the place of an absent tower or of another one.

    Sizes that the file does not tell, such as the number of frames, stay as they were.

    Raises:
        UserError: weights that do not fit the config, or features of another width than the connector takes.
    """
    name = tower.component.removeprefix("towers.")
    width = config.tower(name).hidden_size
    found = tower_sizes(tower)
    config.towers[name] = {key: value for key, value in config.towers[name].items() if key != "absent"} | found
    try:
        with without_values():
            config.build_tower(name)
    except (ValueError, TypeError) as error:
        raise UserError(f"{tower.place}: {error}") from None
    given = config.tower(name).hidden_size
    if given != width:
        raise UserError(f"{tower.place}: gives features of width {given} where the model takes {width}")
