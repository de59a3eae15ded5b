"""Sets a stage up on all ranks: its model, what trains, its data, its processor and its teachers."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidtune.checkpoints.lora.bundle import Base
from vidtune.checkpoints.parts.contrast import ContrastParts
from vidtune.machine.progress import ProgressDisplay
from vidtune.machine.ranks.place import ProcessPlace
from vidtune.media.probe import ProbeCache
from vidtune.models.config import VideoLMConfig
from vidtune.models.resizing import with_sizes
from vidtune.models.text_alignment.caption_words import WordTelling
from vidtune.models.text_alignment.contrast import Contrast
from vidtune.models.video_lm import VideoLM
from vidtune.planning.lengths import ExampleMaker
from vidtune.planning.plan import StagePlan
from vidtune.planning.randomness import random_seed
from vidtune.processing.batch import IGNORED, Example
from vidtune.processing.captions import CaptionTokenizer
from vidtune.processing.processor import VideoLMProcessor
from vidtune.processing.tokenizer import token_kinds
from vidtune.recipe.types import Recipe, Stage, Train
from vidtune.training.ranks.group import Ranks
from vidtune.training.setup.data_contents import has_record, known_contents, record_contents
from vidtune.training.setup.examples import compared_with, example_maker, stage_processor
from vidtune.training.setup.exclusions import ExclusionList
from vidtune.training.setup.parameters import prepare_contrast
from vidtune.training.setup.run_folder import EXCLUSIONS, MEDIA_FACTS, TABLES, results
from vidtune.training.setup.stage_data import StageData, open_stage_data
from vidtune.training.setup.starting_model import StageModel, frozen_dtype, load_stage_model, sizes_of
from vidtune.training.setup.stored_features import StoredFeatures, store_folder
from vidtune.training.setup.teaching import Teachers

COUNTED_SAMPLES = 512
"""Samples of which the words are counted, to know how common each is."""


@dataclass
class StageSetup:
    """A stage that is ready to run.

    Args:
        recipe, stage: settings of the run and of the stage.
        folder: folder of the stage.
        model: the model on the CPU, frozen and cast as the stage needs it.
        trained: how each trained component trains, by name.
        processor: processor with the preprocessing settings of the stage.
        prompt: name of the prompt format.
        data: samples, lengths and plan.
        exclusions: samples that the run leaves out.
        base, base_sample, adapted: see :class:`StageModel`.
        teachers: teachers that the stage distils from, on the CPU.
        stored: features that are read from the feature store, and written to it.
        telling: the loss of a stage that aligns media with words; else None.
        contrast: what a contrastive stage compares the towers with, on the CPU; else None.
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
    telling: WordTelling | None = None
    contrast: Contrast | None = None

    @property
    def captions(self) -> CaptionTokenizer | None:
        """Function that makes the tokens of captions; None where no text tower reads them."""
        return self.data.make.captions

    @property
    def result_needs_frozen(self) -> bool:
        """Whether the result contains the frozen weights too; a bundle names where they come from instead."""
        return self.base is None

    def example(self, index: int, epoch: int) -> Example:
        """Returns the example of the sample at a table index, see :meth:`StageData.example`."""
        return self.data.example(index, epoch)

    @property
    def plan(self) -> StagePlan:
        """The plan of the stage: the packs of every step."""
        return self.data.plan


def set_up(recipe: Recipe, number: int, out: Path, ranks: Ranks | None = None, progress: bool = True) -> StageSetup:
    """Set up stage ``number`` of a recipe on all ranks. Mistakes in the models of later stages are found as well.

    Args:
        out: folder of the run.
        ranks: the processes that train together; None: this process alone.
        progress: whether to show the progress of counting samples on standard error.

    Raises:
        UserError: data that is missing or empty; a component, prompt or preprocessing setting that does not exist.
    """
    stage, parts = recipe.stages[number], None
    folder = out / stage.name
    ranks = ranks or Ranks(ProcessPlace(), torch.device("cpu"))
    with ranks.agreed():
        folder.mkdir(exist_ok=True)
        prepared = load_stage_model(recipe, number, out)
        config = prepared.model.config
        changed = config
        for place, later in enumerate(recipe.stages[number:], number):
            changed = with_sizes(changed, later.sizes or {}, sizes_of(later))
            stage_processor(recipe, later, changed)
            compared = compared_with(recipe, place, changed, out)
            parts = compared if place == number else parts
        processor = stage_processor(recipe, stage, config)
        processor.media_info = ProbeCache(out / TABLES / MEDIA_FACTS).get
        make = replace(example_maker(recipe, stage, processor, config), captions=parts.captions if parts else None)
        teachers = Teachers() if parts else Teachers.of(recipe, config, processor.preprocessing)
        contrast = _contrast(recipe, number, parts, prepared)
    data, exclusions = ranks.main_first(lambda: _open_data(recipe, stage, out, make, prepared, ranks.is_main, progress))
    with ranks.agreed():
        stored = _open_store(recipe, stage, out, prepared, data, teachers, contrast)
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
        telling=_telling(stage, data, config),
        contrast=contrast,
    )


def _open_data(
    recipe: Recipe, stage: Stage, out: Path, make: ExampleMaker, prepared: StageModel, is_main: bool, progress: bool
) -> tuple[StageData, ExclusionList]:
    has_begun = any(results(out, stage.name))
    exclusions = ExclusionList(out / stage.name / EXCLUSIONS, is_main, stage.max_excluded, has_begun)
    with ProgressDisplay(enabled=progress, transient=True) as display:

        def tell(task: str, done: int, total: int) -> None:
            display(f"{stage.name}: {task}", done, total)

        config = prepared.model.config
        known = known_contents(out / stage.name, results(out, stage.name))
        data = open_stage_data(recipe, stage, make, config, out / TABLES, exclusions, tell, known)
        if is_main and not (has_record(out / stage.name) and has_begun):
            record_contents(out / stage.name, stage, data.table)
        return data, exclusions


def _contrast(recipe: Recipe, number: int, parts: ContrastParts | None, prepared: StageModel) -> Contrast | None:
    if parts is None:
        return None
    contrast = parts.build(random_seed(recipe.seed, number, len(prepared.model.components())))
    prepare_contrast(contrast, prepared.trained, frozen_dtype(recipe.stages[number]))
    return contrast


def _telling(stage: Stage, data: StageData, config: VideoLMConfig) -> WordTelling | None:
    """The loss of a stage that aligns media with words; some of the samples show how common each token is."""
    objective = stage.objective
    if objective is None or objective == "contrastive":
        return None
    looked_at = np.unique(np.linspace(0, len(data.table) - 1, COUNTED_SAMPLES).round().astype(int))
    labels = (np.asarray(data.example(int(index), 0).labels) for index in looked_at)
    texts = [ids[ids != IGNORED].tolist() for ids in labels]
    return WordTelling(objective, texts, token_kinds(data.make.processor.tokenizer, config.text_config.vocab_size))


def _open_store(
    recipe: Recipe,
    stage: Stage,
    out: Path,
    prepared: StageModel,
    data: StageData,
    teachers: Teachers,
    contrast: Contrast | None,
) -> StoredFeatures:
    """Open the feature store for the streams that occur in the data of a stage, and for the texts of a contrast."""
    store = store_folder(recipe.features, out)
    if store is None:
        return StoredFeatures()
    preprocessing = data.make.processor.preprocessing
    held = {name: how for name, how in preprocessing.items() if data.plan.lengths.items[name].any()}
    return StoredFeatures.of(store, recipe, stage, prepared.model, held, teachers, contrast)
