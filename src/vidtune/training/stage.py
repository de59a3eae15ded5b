"""Setting a stage up: its weights, what trains, its data and its processor; mistakes are found here, before the first
step.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from vidtune.data.annotations import AnnotationTable
from vidtune.data.problems import SampleProblem
from vidtune.errors import UserError
from vidtune.models.build import build_model, build_processor, recipe_tokenizer
from vidtune.models.checkpoints import load_checkpoint, load_ours_model
from vidtune.models.video_lm import VideoLM
from vidtune.processing.order import packs_of_step
from vidtune.processing.packing import Example
from vidtune.processing.processor import VideoLMProcessor
from vidtune.recipe import Recipe, Stage
from vidtune.spelling import suggestion
from vidtune.systems import get_system
from vidtune.training.exclusions import ExclusionList
from vidtune.training.folder import FINAL
from vidtune.training.parameters import prepare_components, select_components
from vidtune.training.plan import StepPlan
from vidtune.training.step import random_seed

TABLES = "tables"


@dataclass
class StageSetup:
    """A stage ready to run.

    Args:
        recipe, stage: as given.
        folder: of the stage.
        model: on CPU, frozen and cast as the stage wants.
        trained: learning rate per trained component.
        processor: with the stage's preprocessing.
        prompt: name of the prompt format.
        plan: samples of every step.
        exclusions: what the run leaves out.
    """

    recipe: Recipe
    stage: Stage
    folder: Path
    model: VideoLM
    trained: dict[str, float]
    processor: VideoLMProcessor
    prompt: str
    plan: StepPlan
    exclusions: ExclusionList

    def example(self, index: int, epoch: int) -> Example:
        """The sample at a table index, tokenised; random preprocessing is seeded by (seed, epoch, index).

        Raises:
            SampleProblem: the annotation is not usable.
        """
        return self.processor.example(
            self.plan.table[index],
            self.prompt,
            max_length=self.stage.max_length,
            max_expanded_length=self.stage.max_expanded_length,
            seed=random_seed(self.recipe.seed, epoch, index) if self.is_random else None,
        )

    def check_lengths(self) -> None:
        """Find a sample that no pack can hold before training starts; free when the length limits rule it out.

        Raises:
            UserError: names the sample and the limit it needs.
        """
        limit = self.stage.max_tokens_per_batch
        if self.stage.max_expanded_length <= limit:
            return
        for index in range(len(self.plan.table)):
            with suppress(SampleProblem):
                example = self.example(index, 0)
                packs_of_step([len(example)], limit, [example.id])

    @property
    def is_random(self) -> bool:
        """Whether any stream's preprocessing is random."""
        return any(getattr(stream.preprocessing, "flip_probability", 0.0) for stream in self.processor.streams.values())


def set_up(recipe: Recipe, number: int, out: Path) -> StageSetup:
    """Build stage ``number`` of the recipe; what is wrong with later stages is found as well.

    Raises:
        UserError: data that is missing or empty, a component, prompt or preprocessing setting that does not exist.
    """
    stage = recipe.stages[number]
    folder = out / stage.name
    folder.mkdir(exist_ok=True)
    exclusions = ExclusionList(folder / "excluded.jsonl")
    table = open_table(stage, out / TABLES, exclusions)
    model = starting_model(recipe, number, out)
    for later in recipe.stages[number:]:
        trained_components(later, model)
        stage_processor(recipe, later, model)
    trained = trained_components(stage, model)
    prepare_components(model, trained, torch.bfloat16 if stage.precision == "bfloat16" else torch.float32)
    if stage.gradient_checkpointing:
        checkpoint_activations(model)
    return StageSetup(
        recipe=recipe,
        stage=stage,
        folder=folder,
        model=model,
        trained=trained,
        processor=stage_processor(recipe, stage, model),
        prompt=prompt_name(recipe, stage),
        plan=StepPlan(table, stage, recipe.seed),
        exclusions=exclusions,
    )


def trained_components(stage: Stage, model: VideoLM) -> dict[str, float]:
    """Learning rate per component that the stage trains.

    Raises:
        UserError: low-rank adapters are asked for, which training does not have yet.
    """
    adapted = next((glob for glob, train in stage.train.items() if train.lora), None)
    if adapted is not None:
        raise UserError(f"stage {stage.name!r}: train.{adapted}.lora: LoRA training is not there yet; remove the key")
    rates = {glob: train.learning_rate for glob, train in stage.train.items()}
    return select_components(list(model.components()), rates, stage.name)


def check_stages(recipe: Recipe) -> None:
    """Find what can be wrong with any stage before the first one runs for hours.

    Raises:
        UserError: no stages, missing annotation file, unknown prompt.
    """
    if not recipe.stages:
        raise UserError("the recipe has no stages: there is nothing to train")
    for stage in recipe.stages:
        prompt_name(recipe, stage)
        for source in stage.data:
            if not Path(source.annotations).is_file():
                raise UserError(
                    f"stage {stage.name!r}: annotations {source.annotations} do not exist; mend data in the recipe"
                )
            if source.media is not None and not Path(source.media).is_dir():
                raise UserError(
                    f"stage {stage.name!r}: media folder {source.media} does not exist; mend data in the recipe"
                )


def open_table(stage: Stage, cache: Path, exclusions: ExclusionList) -> AnnotationTable:
    """The stage's samples without those that the data check excluded."""
    table = AnnotationTable.open(stage.data, cache)
    if exclusions.checked_ids:
        table = table.without(exclusions.checked_ids)
    if not len(table):
        raise UserError(f"stage {stage.name!r}: its annotations hold no sample to train on")
    return table


def starting_model(recipe: Recipe, number: int, out: Path) -> VideoLM:
    """What the stage starts from: the recipe's model, an earlier stage's result, or a checkpoint."""
    stage = recipe.stages[number]
    earlier = [s.name for s in recipe.stages[:number]]
    source = stage.from_ or (earlier[-1] if earlier else None)
    if source is None:
        return build_model(recipe)
    if source in earlier:
        return load_ours_model(out / source / FINAL, torch.float32)[0]
    base = recipe.language_model if isinstance(recipe.language_model, str) else None
    return load_checkpoint(source, base=base, tokenizer=recipe.tokenizer).model


def stage_processor(recipe: Recipe, stage: Stage, model: VideoLM) -> VideoLMProcessor:
    """The system's processor with the stage's own preprocessing settings."""
    processor = build_processor(model.config, recipe_tokenizer(recipe))
    try:
        return processor.with_preprocessing(stage.media)
    except UserError as error:
        raise UserError(f"stage {stage.name!r}: {error}") from None


def prompt_name(recipe: Recipe, stage: Stage) -> str:
    """The stage's prompt format, by default the one the system was trained with."""
    system = get_system(recipe.system)
    name = stage.prompt or system.training_prompt
    if name not in system.prompts:
        raise UserError(f"stage {stage.name!r}: no prompt format {name!r}; {suggestion(name, system.prompts)}")
    return name


def checkpoint_activations(model: VideoLM) -> None:
    """Recompute the language model's activations in the backward pass; on the whole model it would switch frozen
    towers too.
    """
    language_model = model.language_model
    enable: Callable[[], None] = getattr(
        language_model, "activation_checkpointing_enable", language_model.gradient_checkpointing_enable
    )
    enable()
