"""Extraction of the features that the stages of a recipe will read from the feature store, before they run."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from vidtune.checkpoints.build import tower_of_checkpoint, tower_of_recipe
from vidtune.checkpoints.parts.contrast import ContrastParts
from vidtune.data.problems import SampleProblem
from vidtune.data.sample import MediaRef
from vidtune.data.tables import AnnotationTable
from vidtune.errors import UserError
from vidtune.features.cache import TORCH_DTYPES, FeatureCache
from vidtune.features.collection import stream_spec, text_spec
from vidtune.features.media_listing import refs_read
from vidtune.features.tower_stream import Extraction, TextVectors, TowerStream
from vidtune.features.towers import frozen
from vidtune.media.kept.identity import MediaIdentities
from vidtune.media.preprocessing.kinds import random_setting
from vidtune.models.config import VideoLMConfig
from vidtune.models.media_reading import no_pooled_output
from vidtune.models.resizing import resized_tower
from vidtune.models.text_alignment.contrast import TEXT_TOWER, pooled_sizes
from vidtune.processing.captions import caption_of
from vidtune.processing.processor import VideoLMProcessor
from vidtune.recipe.types import Recipe, Stage
from vidtune.spelling import suggestion
from vidtune.training.inspection.dry_run import starting_config
from vidtune.training.setup.checks import check_stages, chosen_stages
from vidtune.training.setup.examples import compared_with, stage_processor
from vidtune.training.setup.parameters import component_names, prepare_contrast, select_components
from vidtune.training.setup.run_folder import FINAL
from vidtune.training.setup.starting_model import frozen_dtype, sizes_of
from vidtune.training.setup.stored_features import unstorable


def stage_extractions(
    recipe: Recipe,
    store: Path,
    tables: Path,
    *,
    only: str | None = None,
    streams: Sequence[str] = (),
    run: Path | None = None,
    dtype: str | None = None,
    device: torch.device | None = None,
) -> Iterator[Extraction]:
    """Yields the extraction of each stage: its towers, its streams and the files to read.

    Args:
        store: folder of the collections.
        tables: folder of parsed annotations.
        only: name of one stage; None: all of them.
        streams: names of the streams; empty: all that occur in the data and can be stored.
        run: folder of the recipe's run, for a stage that starts from towers that an earlier stage trained.
        dtype: dtype of the features; None: the one in which the stage will compute.
        device: device of the towers; None: the CPU.

    Raises:
        UserError: no such stage or stream; a stream that is asked for cannot be stored; missing weights.
    """
    check_stages(recipe)
    chosen = chosen_stages(recipe, only)
    for number, stage in enumerate(recipe.stages):
        if stage in chosen:
            yield _stage_extraction(recipe, number, store, tables, streams, run, dtype, device or torch.device("cpu"))


def _stage_extraction(
    recipe: Recipe,
    number: int,
    store: Path,
    tables: Path,
    wanted: Sequence[str],
    run: Path | None,
    dtype: str | None,
    device: torch.device,
) -> Extraction:
    stage = recipe.stages[number]
    config = starting_config(recipe, number)
    processor = stage_processor(recipe, stage, config)
    for stream in wanted:
        if stream not in processor.streams:
            raise UserError(f"stream {stream!r} does not exist; {suggestion(stream, list(processor.streams))}")
    refs = media_refs(stage, processor, tables)
    held = {ref.stream for ref in refs}
    found = Extraction(f"stage {stage.name}", {})
    identities = MediaIdentities()
    compared = compared_with(recipe, number, config, run)
    towers: dict[str, torch.nn.Module] = {}
    trained = trained_towers(stage, config)
    for stream in [name for name in processor.streams if name in held and name in (wanted or held)]:
        name, how = config.streams[stream]["tower"], processor.preprocessing[stream]
        reason = unstorable(recipe, stage, stream, name, how, name in trained)
        pooled = compared is not None and stream not in compared.config.mean
        if pooled and stream not in pooled_sizes(config, ()):
            raise UserError(f"stage {stage.name!r}: {no_pooled_output(stream, config)}")
        if reason is not None:
            if wanted:
                raise UserError(f"{reason}: its features cannot be stored")
            found.refused.append(reason)
            continue
        kind = dtype or stage.precision
        if name not in towers:
            tower = _starting_tower(recipe, number, name, config, run)
            if next(tower.parameters(), None) is None:
                raise UserError(f"stream {stream}: the model is without its tower; name its weights in towers.{name}")
            tower = resized_tower(tower, config, name, sizes_of(stage))
            towers[name] = frozen(tower, TORCH_DTYPES[kind], device)
        spec = stream_spec(config, stream, towers[name], how, kind, {"system": recipe.system}, pooled)
        cache = FeatureCache(store, spec, identities)
        found.streams[stream] = TowerStream.of(config, stream, towers[name], how, cache, pooled)
    found.refs.extend(ref for ref in refs if ref.stream in found.streams)
    if compared is None or wanted:
        return found
    return replace(found, texts=_texts(recipe, stage, config, compared, store, tables, device))


def _texts(
    recipe: Recipe,
    stage: Stage,
    config: VideoLMConfig,
    compared: ContrastParts,
    store: Path,
    tables: Path,
    device: torch.device,
) -> TextVectors | None:
    """The texts of a contrastive stage, for its text tower; None if that trains, or gets random weights."""
    trained = select_components(component_names(config, stage), stage.train, stage.name)
    if TEXT_TOWER in trained or compared.text is None:
        return None
    contrast = compared.build(recipe.seed)
    prepare_contrast(contrast, trained, frozen_dtype(stage))
    cache = FeatureCache(store, text_spec(contrast.text_tower, {"system": recipe.system}))
    table = AnnotationTable.open(stage.data, tables)
    texts = dict.fromkeys(caption_of(table[index]) for index in range(len(table)))
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=stage.precision == "bfloat16")
    contrast.to(device).eval()

    def read(ids: Sequence[torch.Tensor]) -> torch.Tensor:
        with autocast():
            return contrast.text_vectors([text.to(device) for text in ids])

    return TextVectors(read, cache, [compared.captions(text) for text in texts if text])


def media_refs(stage: Stage, processor: VideoLMProcessor, tables: Path) -> list[MediaRef]:
    """Returns every media file in the data of a stage with every stream that may read it, each pair once.

    Files of stored features are left out. No file is opened.
    """
    table = AnnotationTable.open(stage.data, tables)
    random = {name for name, steps in processor.preprocessing.items() if random_setting(steps)}
    refs: dict[MediaRef, None] = {}
    for index in range(len(table)):
        try:
            read = list(refs_read(table[index].media, processor))
        except SampleProblem:
            continue  # training leaves it out and reports it
        for ref in read:
            refs[_without_numbers(ref) if ref.stream in random else ref] = None
    return list(refs)


def _without_numbers(ref: MediaRef) -> MediaRef:
    """The reference without what tells items of one file apart: nothing of its stream is stored."""
    return replace(ref, extras=(), frames=())


def trained_towers(stage: Stage, config: VideoLMConfig) -> set[str]:
    """Returns the names of the towers that a stage trains."""
    trained = select_components(component_names(config, stage), stage.train, stage.name)
    return {name for name in config.towers if f"towers.{name}" in trained}


def _starting_tower(recipe: Recipe, number: int, name: str, config: VideoLMConfig, run: Path | None) -> torch.nn.Module:
    """Returns a tower as the stage starts with it: from the last stage that trained it, else from the recipe."""
    names = [stage.name for stage in recipe.stages]
    while True:
        source = recipe.stages[number].from_ or (names[number - 1] if number else None)
        if source is None:
            return tower_of_recipe(recipe, name, config)
        if source not in names[:number]:
            return tower_of_checkpoint(source, name, recipe)
        number = names.index(source)
        if name in trained_towers(recipe.stages[number], config):
            final = None if run is None else run / source / FINAL
            if final is None or not final.is_dir():
                raise UserError(
                    f"towers.{name} is trained in stage {source!r} first: train that, and give the run's folder with "
                    "--out"
                )
            return tower_of_checkpoint(str(final), name, recipe)
