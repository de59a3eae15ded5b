"""How the samples of a stage become examples: its processor, its prompt format, its length limits."""

from functools import partial
from pathlib import Path
from typing import Any

from vidtune.checkpoints.assembly.composition import recipe_tokenizer
from vidtune.checkpoints.fit_processor import recipe_processor
from vidtune.checkpoints.parts.contrast import ContrastParts, contrast_parts
from vidtune.errors import RecipeError, UserError
from vidtune.models.config import VideoLMConfig
from vidtune.models.towers.token_grid import FrameCount
from vidtune.planning.lengths import ExampleMaker
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.prompts.chat_template import CHAT_TEMPLATE
from vidtune.processing.stream_settings import needs_files_message
from vidtune.recipe.types import Recipe, Stage
from vidtune.registry import SYSTEMS
from vidtune.spelling import suggestion


def stage_processor(recipe: Recipe, stage: Stage, config: VideoLMConfig) -> VideoLMProcessor:
    """Returns the processor of the system with the preprocessing settings of the stage.

    Raises:
        UserError: a preprocessing setting that does not fit, or features of a stream that the system does not have.
    """
    processor = recipe_processor(recipe, config)
    check_features(stage, processor)
    return for_stage(processor, stage)


def for_stage(processor: VideoLMProcessor, stage: Stage) -> VideoLMProcessor:
    """Returns a processor with the preprocessing settings of a stage. Raises RecipeError for one that does not fit."""
    try:
        return processor.with_preprocessing(stage.media)
    except UserError as error:
        raise RecipeError(f"stage {stage.name!r}: {error}") from None


def check_features(stage: Stage, processor: VideoLMProcessor) -> None:
    """Raise UserError if the data of a stage name features of a stream that is not there, or that takes none."""
    for source in stage.data:
        for stream in source.features:
            if stream not in processor.streams:
                raise RecipeError(
                    f"stage {stage.name!r}: {source.annotations}: no stream {stream!r} for its features; "
                    f"{suggestion(stream, processor.streams)}"
                )
            if not processor.streams[stream].takes_features:
                raise RecipeError(f"stage {stage.name!r}: {source.annotations}: {needs_files_message(stream)}")


def example_maker(
    recipe: Recipe, stage: Stage, processor: VideoLMProcessor, config: VideoLMConfig | None = None
) -> ExampleMaker:
    """Returns the function that makes the examples of a stage.

    Args:
        config: of the model; with it, the frames of distilled streams are counted as well.
    """
    aligned: dict[str, FrameCount] = {}
    if config is not None:
        for stream in recipe.distillation:
            tower: Any = config.tower(config.streams[stream]["tower"])
            aligned[stream] = FrameCount(tower)
    return ExampleMaker(processor, prompt_name(recipe, stage), stage.max_length, stage.max_expanded_length, aligned)


def compared_with(recipe: Recipe, number: int, config: VideoLMConfig, out: Path | None = None) -> ContrastParts | None:
    """Returns what stage ``number`` compares the towers with; None for a stage that is not contrastive.

    Raises UserError as :func:`contrast_parts`, which has the arguments.
    """
    if recipe.stages[number].objective != "contrastive":
        return None
    return contrast_parts(recipe, number, config, partial(recipe_tokenizer, recipe), out)


def prompt_name(recipe: Recipe, stage: Stage) -> str:
    """Returns the name of the prompt format of a stage; by default the one that the system was trained with.

    Raises:
        UserError: the system has no such prompt format; names the nearest.
    """
    dialect = SYSTEMS[recipe.system].dialect
    name = stage.prompt or dialect.training_prompt
    if name not in (*dialect.prompts, CHAT_TEMPLATE):
        raise RecipeError(f"stage {stage.name!r}: no prompt format {name!r}; {suggestion(name, dialect.prompts)}")
    return name
