"""Setting a stage up: its weights, what trains, its data and its processor; mistakes are found here, before the first
step.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidtune.checkpoints.build import build_processor, recipe_tokenizer
from vidtune.checkpoints.lora.bundle import Base
from vidtune.errors import UserError
from vidtune.media.probe import ProbeCache
from vidtune.models.config import VideoLMConfig
from vidtune.models.towers.token_grid import FrameCount
from vidtune.models.video_lm import VideoLM
from vidtune.planning.lengths import ExampleMaker
from vidtune.planning.plan import StagePlan
from vidtune.processing.batch import Example
from vidtune.processing.processor import VideoLMProcessor
from vidtune.recipe.types import Recipe, Stage, Train
from vidtune.registry import SYSTEMS
from vidtune.spelling import suggestion
from vidtune.training.ranks.group import ProcessPlace, Ranks
from vidtune.training.setup.exclusions import ExclusionList
from vidtune.training.setup.stage_data import PlainProgress, StageData, open_stage_data
from vidtune.training.setup.starting_model import check_quantization, load_stage_model
from vidtune.training.setup.stored_features import StoredFeatures, store_folder
from vidtune.training.setup.teaching import Teachers
from vidtune.training.trackers.opening import check_trackers

TABLES = "tables"
EXCLUSIONS = "excluded.jsonl"


@dataclass
class StageSetup:
    """A stage ready to run.

    Args:
        recipe, stage: as given.
        folder: of the stage.
        model: on CPU, frozen and cast as the stage wants.
        trained: how each trained component trains, see :class:`Train`.
        processor: with the stage's preprocessing.
        prompt: name of the prompt format.
        data: samples, lengths and plan.
        exclusions: what the run leaves out.
        base, base_sample, adapted: see :class:`StageModel`.
        teachers: what the stage distils from, on CPU.
        stored: features that are served from the store, and put there.
    """

    recipe: Recipe
    stage: Stage
    folder: Path
    model: VideoLM
    trained: dict[str, Train]
    processor: VideoLMProcessor
    prompt: str
    data: StageData
    exclusions: ExclusionList
    base: Base | None = None
    base_sample: dict[str, Tensor] = field(default_factory=dict)
    adapted: dict[str, list[str]] = field(default_factory=dict)
    teachers: Teachers = field(default_factory=Teachers)
    stored: StoredFeatures = field(default_factory=StoredFeatures)

    @property
    def result_needs_frozen(self) -> bool:
        """Whether the result holds the frozen weights too; a bundle names where they come from instead."""
        return self.base is None

    def example(self, index: int, epoch: int) -> Example:
        """The sample at a table index, see :meth:`StageData.example`."""
        return self.data.example(index, epoch)

    @property
    def plan(self) -> StagePlan:
        """The packs of every step."""
        return self.data.plan


def set_up(recipe: Recipe, number: int, out: Path, ranks: Ranks | None = None) -> StageSetup:
    """Build stage ``number`` of the recipe on all ranks; what is wrong with later stages is found as well.

    Args:
        ranks: who trains together; None: this process alone.

    Raises:
        UserError: data that is missing or empty, a component, prompt or preprocessing setting that does not exist.
    """
    stage = recipe.stages[number]
    folder = out / stage.name
    ranks = ranks or Ranks(ProcessPlace(), torch.device("cpu"))
    with ranks.agreed():
        folder.mkdir(exist_ok=True)
        prepared = load_stage_model(recipe, number, out)
        for later in recipe.stages[number:]:
            stage_processor(recipe, later, prepared.model.config)
        config, processor = prepared.model.config, stage_processor(recipe, stage, prepared.model.config)
        processor.media_info = ProbeCache(out / TABLES / "media.jsonl").get
        make = example_maker(recipe, stage, processor, config)
        teachers = Teachers.of(recipe, config, processor.preprocessing)

    def open_data() -> tuple[StageData, ExclusionList]:
        exclusions = ExclusionList(folder / EXCLUSIONS, writes=ranks.is_main, max_share=stage.max_excluded)
        progress = PlainProgress(stage.name)
        return open_stage_data(recipe, stage, make, config, out / TABLES, exclusions, progress), exclusions

    data, exclusions = ranks.main_first(open_data)
    store, stored = store_folder(recipe.features, out), StoredFeatures()
    with ranks.agreed():
        if store is not None:
            held = {name: how for name, how in processor.preprocessing.items() if data.plan.lengths.items[name].any()}
            stored = StoredFeatures.of(store, recipe, stage, prepared.model, held, teachers)
    return StageSetup(
        recipe=recipe,
        stage=stage,
        folder=folder,
        model=prepared.model,
        trained=prepared.trained,
        processor=processor,
        prompt=make.prompt,
        data=data,
        exclusions=exclusions,
        base=prepared.base,
        base_sample=prepared.base_sample,
        adapted=prepared.adapted,
        teachers=teachers,
        stored=stored,
    )


def check_stages(recipe: Recipe) -> None:
    """Find what can be wrong with any stage before the first one runs for hours.

    Raises:
        UserError: no stages, missing annotation file or package, unknown prompt, weights that cannot be held in few
            bits.
    """
    if not recipe.stages:
        raise UserError("the recipe has no stages: there is nothing to train")
    check_trackers(recipe.trackers)
    for stage in recipe.stages:
        prompt_name(recipe, stage)
        check_quantization(stage)
        for source in stage.data:
            if not Path(source.annotations).is_file():
                raise UserError(
                    f"stage {stage.name!r}: annotations {source.annotations} do not exist; mend data in the recipe"
                )
            if source.media is not None and not Path(source.media).is_dir():
                raise UserError(
                    f"stage {stage.name!r}: media folder {source.media} does not exist; mend data in the recipe"
                )
            for stream, folder in source.features.items():
                if not Path(folder).is_dir():
                    raise UserError(
                        f"stage {stage.name!r}: the folder of {stream} features {folder} does not exist; mend data in "
                        "the recipe"
                    )


def stage_processor(recipe: Recipe, stage: Stage, config: VideoLMConfig) -> VideoLMProcessor:
    """The system's processor with the stage's own preprocessing settings.

    Raises:
        UserError: a preprocessing setting that does not fit, or features of a stream that the system does not have.
    """
    processor = build_processor(config, recipe_tokenizer(recipe))
    check_features(stage, processor)
    try:
        return processor.with_preprocessing(stage.media)
    except UserError as error:
        raise UserError(f"stage {stage.name!r}: {error}") from None


def check_features(stage: Stage, processor: VideoLMProcessor) -> None:
    """Raise UserError when the stage's data name features of a stream that the system does not have."""
    for source in stage.data:
        for stream in source.features:
            if stream not in processor.streams:
                raise UserError(
                    f"stage {stage.name!r}: {source.annotations}: no stream {stream!r} for its features; "
                    f"{suggestion(stream, processor.streams)}"
                )


def example_maker(
    recipe: Recipe, stage: Stage, processor: VideoLMProcessor, config: VideoLMConfig | None = None
) -> ExampleMaker:
    """What makes the stage's examples; with the model's ``config`` it also counts frames that are distilled."""
    aligned: dict[str, FrameCount] = {}
    if config is not None:
        for stream in recipe.distillation:
            tower: Any = config.tower(config.streams[stream]["tower"])
            aligned[stream] = FrameCount(tower)
    return ExampleMaker(processor, prompt_name(recipe, stage), stage.max_length, stage.max_expanded_length, aligned)


def prompt_name(recipe: Recipe, stage: Stage) -> str:
    """The stage's prompt format, by default the one the system was trained with."""
    system = SYSTEMS[recipe.system]
    name = stage.prompt or system.dialect.training_prompt
    if name not in system.dialect.prompts:
        raise UserError(f"stage {stage.name!r}: no prompt format {name!r}; {suggestion(name, system.dialect.prompts)}")
    return name
