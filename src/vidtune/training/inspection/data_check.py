"""The data check of a recipe's stages: the same tables, tokenising and preprocessing as training, but no weights."""

from collections.abc import Iterator
from pathlib import Path

from vidtune.checkpoints.build import build_config, build_processor, recipe_tokenizer
from vidtune.checkpoints.checkpoints import load_checkpoint
from vidtune.data.check import DataCheck
from vidtune.data.findings import DataReport
from vidtune.data.tables import AnnotationTable
from vidtune.errors import UserError
from vidtune.machine.cores import media_workers
from vidtune.machine.progress import ProgressCallback, no_progress
from vidtune.media.probe import ProbeCache
from vidtune.processing.processor import VideoLMProcessor
from vidtune.recipe.types import Recipe, Stage
from vidtune.spelling import suggestion
from vidtune.training.setup.run_folder import check_recipe
from vidtune.training.setup.stage import EXCLUSIONS, TABLES, check_features, check_stages, example_maker

CHECKED_FILES = "checked_files.jsonl"


def check_recipe_data(
    recipe: Recipe,
    out: Path,
    *,
    only: str | None = None,
    decode: bool = False,
    progress: ProgressCallback = no_progress,
) -> Iterator[tuple[Stage, DataReport]]:
    """Check the data of every stage and write ``<out>/<stage>/excluded.jsonl``, which training into ``out`` follows.

    Args:
        out: folder of the run; also keeps parsed tables and the list of good files.
        only: name of one stage; None checks all.
        decode: decode every file, as training will.

    Raises:
        UserError: no such stage, missing or broken annotations, or ``out`` holds the run of another recipe.
    """
    check_stages(recipe)
    names = [stage.name for stage in recipe.stages]
    if only is not None and only not in names:
        raise UserError(f"the recipe has no stage {only!r}; {suggestion(only, names)}")
    check_recipe(out, recipe)
    processor = _processor(recipe)
    processor.media_info = ProbeCache(out / TABLES / "media.jsonl").get
    for stage in recipe.stages:
        if only in (None, stage.name):
            check_features(stage, processor)
            yield stage, _check_stage(recipe, stage, processor.with_preprocessing(stage.media), out, decode, progress)


def _check_stage(
    recipe: Recipe, stage: Stage, processor: VideoLMProcessor, out: Path, decode: bool, progress: ProgressCallback
) -> DataReport:
    check = DataCheck(
        {name: settings.preprocessing for name, settings in processor.streams.items()},
        checked_files=out / CHECKED_FILES,
        companions=processor.companions,
        decode=decode,
        workers=max(1, media_workers(stage.workers)),
        timeout=stage.media_timeout,
    )
    table = AnnotationTable.open(stage.data, out / TABLES)
    report = check.run(table, example_maker(recipe, stage, processor), progress)
    report.write_exclusions(out / stage.name / EXCLUSIONS)
    return report


def _processor(recipe: Recipe) -> VideoLMProcessor:
    if recipe.checkpoint:
        return load_checkpoint(recipe.checkpoint, tokenizer=recipe.tokenizer).processor
    return build_processor(build_config(recipe), recipe_tokenizer(recipe))
