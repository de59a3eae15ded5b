"""Processor that fits a model: its tokenizer, and the preprocessing and token counts of each stream."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedTokenizerBase

from vidtune.checkpoints.assembly.composition import recipe_tokenizer, require_tokens
from vidtune.checkpoints.files.folder import CheckpointFiles
from vidtune.checkpoints.files.hub import locate
from vidtune.checkpoints.publication import CONFIG_ERRORS, PROCESSOR_FILES, in_plain_words
from vidtune.checkpoints.source import Source
from vidtune.errors import RecipeError, UserError, errors_of
from vidtune.foreign.files import reading
from vidtune.media.preprocessing.kinds import Preprocessing
from vidtune.models.config import VideoLMConfig
from vidtune.processing.added_tokens import add_tokens, require_rows
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.stream_settings import Measure, StreamSettings, condenses, is_tokenwise
from vidtune.processing.tokenizer import beginning_of, load_tokenizer, require_writable
from vidtune.recipe.mistakes import first_mistake
from vidtune.recipe.types import Recipe
from vidtune.registry import SYSTEMS

TOKENIZER, TOKENIZER_SETTINGS = "tokenizer.json", "tokenizer_config.json"
"""Files of a saved tokenizer: its tokens, and which of them begin and end a text."""


def processor_of(source: Source, config: VideoLMConfig, tokenizer: str | None = None) -> VideoLMProcessor:
    """Return the processor of a loaded model: the one saved beside it, or the one that its system prescribes.

    Args:
        source: what the model was loaded from.
        config: config of the model, with the towers that complete it.
        tokenizer: folder or hub id of the tokenizer, for a checkpoint without one, or in the place of its own.

    Raises:
        UserError: no tokenizer can be read.
    """
    files = source.files
    assert files is not None
    if source.kind in ("native", "bundle"):
        processor = _saved_processor(files)
        if processor.system != config.system:
            raise UserError(
                f"{files.path}: config.json is of system {config.system!r}, processor_config.json of "
                f"{processor.system!r}; copy both from one checkpoint"
            )
        require_tokens(processor.tokenizer, config.added_tokens, files.path)
        _fit_tokenizer(processor.tokenizer, config)
        _refit(processor, config, {tower.component.removeprefix("towers.") for tower in source.in_order()[0].towers})
        if tokenizer is not None:
            files = CheckpointFiles(tokenizer)
            chosen = load_tokenizer(files.path, config=_known_config(files))
            _fit_tokenizer(chosen, config)
            processor = VideoLMProcessor(chosen, processor.system, processor.streams, beginning=beginning_of(chosen))
        return processor
    if tokenizer is not None:
        files = CheckpointFiles(tokenizer)
    elif source.children:
        below = source.children[0]
        named = None if below.recipe is None else below.recipe.tokenizer
        files = CheckpointFiles(named) if named else (below.part("language_model") or below).files or files
    chosen = load_tokenizer(files.path, config=_known_config(files))
    return build_processor(config, chosen, _published_preprocessing(source, config))


def _published_preprocessing(source: Source, config: VideoLMConfig) -> dict[str, Preprocessing]:
    """Preprocessing of the streams in which the processors beside published weights differ from the system's.

    Raises:
        UserError: a processor's file is broken, or says what the format does not understand.
    """
    found: dict[str, Preprocessing] = {}
    for one in source.steps():
        if one.format is None or one.format.read_preprocessing is None or one.files is None:
            continue
        files = {name: one.files.json(name) for name in PROCESSOR_FILES if one.files.has(name)}
        try:
            found |= one.format.read_preprocessing(files, config) if files else {}
        except CONFIG_ERRORS as error:
            raise UserError(f"{one.path}: {', '.join(files)}: {in_plain_words(error)}") from None
    return found


def _saved_processor(files: CheckpointFiles) -> VideoLMProcessor:
    """The processor in a folder of ours. Raises UserError where its files, or those of its tokenizer, are broken."""
    with reading(files.path / TOKENIZER):
        _require_known_ends(files)
    try:
        processor: VideoLMProcessor = VideoLMProcessor.from_pretrained(
            files.path, config=VideoLMConfig.from_dict(files.config), trust_remote_code=False
        )
        require_writable(processor.tokenizer.init_kwargs, files.path)
    except UserError as error:
        raise (
            error if str(files.path) in str(error) else UserError(f"{files.path}/processor_config.json: {error}")
        ) from None
    except Exception as error:  # the tokenizers library raises plain exceptions
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"{files.path}: no processor can be read from processor_config.json and the tokenizer's files ({reason}); "
            "copy them again"
        ) from None
    return processor


def _require_known_ends(files: CheckpointFiles) -> None:
    """Raise UserError where a tokenizer that we saved begins or ends a text with a token that it does not have.

    transformers would add the token, with an id that the model gives to nothing, or to something else.
    """
    if not (files.has(TOKENIZER) and files.has(TOKENIZER_SETTINGS)):
        return
    tokenizer, settings = files.json(TOKENIZER), files.json(TOKENIZER_SETTINGS)
    named = {key: settings.get(key) for key in ("bos_token", "eos_token")}
    texts = {
        key: given["content"] if isinstance(given, dict) and "content" in given else given
        for key, given in named.items()
    }
    vocab, added = tokenizer.get("model", {}).get("vocab", ()), tokenizer.get("added_tokens", ())
    known = {token.get("content") for token in added}
    known |= set(vocab) if isinstance(vocab, dict) else {piece[0] for piece in vocab}
    for key, text in texts.items():
        if isinstance(text, str) and text not in known:
            raise UserError(
                f"{files.path / TOKENIZER_SETTINGS}: {key} is {text!r}, which is no token of {TOKENIZER}; copy both "
                "files from one checkpoint"
            )


def _known_config(files: CheckpointFiles) -> PreTrainedConfig | None:
    """The parsed config.json as transformers' tokenizer loader would read it once more; None without one."""
    if not files.config:
        return None
    try:
        return CONFIG_MAPPING[files.config["model_type"]].from_dict(files.config)
    except (KeyError, ValueError):
        # Without the type, about which transformers would warn.
        return PreTrainedConfig.from_dict({key: value for key, value in files.config.items() if key != "model_type"})


def _refit(processor: VideoLMProcessor, config: VideoLMConfig, towers: set[str]) -> None:
    """Settings of the streams of changed towers; preprocessing that still fits stays as it is."""
    if not towers:
        return
    fresh = build_processor(config, processor.tokenizer)
    for stream, parts in config.streams.items():
        if parts["tower"] in towers:
            old, new = processor.streams[stream].preprocessing, fresh.streams[stream].preprocessing
            fits = type(old) is type(new) and old.output_shapes() == new.output_shapes()
            kept = {"preprocessing": old} if fits else {}
            processor.streams[stream] = fresh.streams[stream].model_copy(update=kept)


def build_processor(
    config: VideoLMConfig,
    tokenizer: str | Path | PreTrainedTokenizerBase,
    changed: Mapping[str, Preprocessing] | None = None,
) -> VideoLMProcessor:
    """Return the processor of a model: a tokenizer (or its folder) and the preprocessing that its system prescribes.

    Args:
        changed: stream -> preprocessing in the place of that of the system.
    """
    preprocessing = preprocessing_of(config) | dict(changed or {})
    with errors_of(f"system {config.system}: preprocessing or placeholders fails"):
        streams = _stream_settings(config, preprocessing)
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(locate(str(tokenizer), weights=False))
    _fit_tokenizer(tokenizer, config)
    processor = VideoLMProcessor(tokenizer, config.system, streams, beginning=beginning_of(tokenizer))
    return processor.measuring(config.measures())


def preprocessing_of(config: VideoLMConfig) -> dict[str, Preprocessing]:
    """Return the preprocessing of each stream as the system prescribes it.

    Raises:
        UserError: the system's function fails, or leaves a stream out.
    """
    try:
        with errors_of(f"system {config.system}: preprocessing fails", ValidationError):
            found = dict(SYSTEMS[config.system].architecture.preprocessing(config))
    except ValidationError as error:  # of a size that no medium has
        raise RecipeError(f"system {config.system}: preprocessing: {first_mistake(error)}") from None
    lacking = [name for name in config.streams if name not in found]
    if lacking:
        raise UserError(f"system {config.system}: preprocessing gives nothing for stream {lacking[0]!r}")
    return found


def _stream_settings(config: VideoLMConfig, preprocessing: Mapping[str, Preprocessing]) -> dict[str, StreamSettings]:
    system = SYSTEMS[config.system]
    return {
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


def recipe_processor(recipe: Recipe, config: VideoLMConfig) -> VideoLMProcessor:
    """Return the processor of the model that a recipe describes.

    Raises:
        UserError: the recipe puts the model together from parts, and its tokenizer is longer than the vocabulary of the
            language model.
    """
    tokenizer = recipe_tokenizer(recipe)
    if recipe.starting_place is None:
        added = [token.text for token in SYSTEMS[config.system].dialect.added_tokens]
        require_rows(tokenizer, config.text_config.vocab_size, added)
    return build_processor(config, tokenizer)


def _fit_tokenizer(tokenizer: PreTrainedTokenizerBase, config: VideoLMConfig) -> None:
    """Give a tokenizer the tokens that the system adds. Raises UserError where the model knows them by other ids.

    Published tokenizers may have tokens without a row in the model, such as one for padding: a text that contains one
    is refused when it is tokenised.
    """
    ids = add_tokens(tokenizer, SYSTEMS[config.system].dialect.added_tokens)
    lost = next((text for text, id in ids.items() if id >= config.text_config.vocab_size), None)
    if lost is not None:
        raise UserError(
            f"{tokenizer.name_or_path}: {lost!r} has id {ids[lost]}, but the model has rows for "
            f"{config.text_config.vocab_size} tokens; take the tokenizer that was saved with it"
        )
    moved = next((text for text in ids if config.added_tokens.get(text, ids[text]) != ids[text]), None)
    if moved is not None:
        raise UserError(
            f"{tokenizer.name_or_path}: {moved!r} has id {ids[moved]}, but {config.added_tokens[moved]} in the model; "
            "take the tokenizer that was saved with it"
        )


def _absent_tower(config: VideoLMConfig, stream: str) -> tuple[str, str] | None:
    """Name of the stream's tower and what its weights are published as, if the model is without it."""
    name = config.streams[stream]["tower"]
    return (name, config.towers[name]["absent"]) if name in config.absent_towers else None


def _token_counts(
    config: VideoLMConfig, stream: str, preprocessing: Preprocessing
) -> int | dict[str, int] | str | Measure:
    """Number of tokens of an item; by shape if they depend on it, by row if there may be any number of rows.

    Where stored features do not become one token each, where shapes cannot be listed, or where the tower tells the grid
    of its tokens or the size of its hidden states, it is a function.
    """
    parts = config.streams[stream]
    tower: Any = config.tower(parts["tower"])
    counts = {shape: config.num_tokens(stream, shape) for shape in preprocessing.output_shapes()}
    connector, fixed = config.connector_of(stream), len(counts) == 1
    plain = fixed or (is_tokenwise(connector) and (counts or hasattr(tower, "tokens_per_row")))
    tells_more = hasattr(tower, "grid") or hasattr(tower, "state_tokens")
    if config.taps(stream) or condenses(connector) or tells_more or not plain:
        return config.measure(stream)
    if fixed:
        return next(iter(counts.values()))
    if not counts:
        return str(tower.tokens_per_row)
    return {"x".join(map(str, shape)): tokens for shape, tokens in counts.items()}


def _feature_shape(config: VideoLMConfig, stream: str, preprocessing: Preprocessing) -> dict[str, int]:
    """Width of the features of the stream's tower, and their number if it is the same for every item."""
    tower = config.tower(config.streams[stream]["tower"])
    rows = {config.feature_shape(stream, shape)[-2] for shape in preprocessing.output_shapes()}
    found = {"feature_size": config.feature_shape(stream, tower.input_shape())[-1]}
    return {**found, "feature_rows": rows.pop()} if len(rows) == 1 else found
