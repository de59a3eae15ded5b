"""Write a LoRA result, of ours or a published one, as LLaVA-style trainers do.

The folder holds the adapter of the language model, the connectors trained beside it and a config. Who reads it names
what it stands on (``--model-base``): the language model, connectors that it does not hold, earlier LoRA runs.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vidtune.checkpoints.assembly.apply import key_map
from vidtune.checkpoints.assembly.fill import under_every_name
from vidtune.checkpoints.assembly.layer import whole_language_model
from vidtune.checkpoints.lora.adapter_files import TRAINABLE_NAMES, WRAPPER, Adapter, read_adapter, write_adapter
from vidtune.checkpoints.lora.bundle import (
    LANGUAGE_MODEL,
    OTHERS,
    SAMPLE,
    bundle_adapters,
    first_difference,
    weight_sample,
)
from vidtune.checkpoints.publication import CheckpointFormat
from vidtune.checkpoints.recognise import recognise
from vidtune.checkpoints.report import LoadReport, rename
from vidtune.checkpoints.source import WHOLE, Source
from vidtune.errors import UserError
from vidtune.models.language_model.head import tied_names
from vidtune.models.video_lm import VideoLM
from vidtune.recipe.files import RECIPE_FILE
from vidtune.recipe.stored import stored_recipe
from vidtune.recipe.values import component_matches
from vidtune.registry import SYSTEMS


def write_lora_run(
    model: VideoLM, source: Source, format: CheckpointFormat, connectors: Mapping[str, Tensor], folder: Path
) -> None:
    """Write the LoRA run of a source in a published format.

    Args:
        model: the merged model that loading the source gave.
        connectors: weights trained fully, under the format's names.

    Raises:
        UserError: the source holds no adapter, or stands on weights that were published nowhere; ValueError from the
            format's own config writer.
    """
    assert source.files is not None and format.write_config is not None
    if source.kind == "bundle":
        adapter, towers = _bundle_parts(model, source, format)
    elif source.kind == "run":
        adapter = read_adapter(source.files)
        towers = SYSTEMS[model.config.system].publication.named_parts(source.config).tower_places
    else:
        raise UserError(f"{source.path}: holds no low-rank adapter, which format {format.name} is for")
    config = format.write_config(model.config, towers)
    write_adapter(adapter, folder, pickled=True)
    torch.save({WRAPPER + name: tensor for name, tensor in connectors.items()}, folder / TRAINABLE_NAMES[0])
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    source.close()


def _bundle_parts(model: VideoLM, source: Source, format: CheckpointFormat) -> tuple[Adapter, dict[str, str]]:
    """The language model's adapter under the format's names, and the places where the towers were published.

    What the format does not hold must be what was published, or an earlier LoRA run, or the whole model on which runs
    of this format stand. Otherwise the written run, read again, would be another model.
    """
    assert source.files is not None and source.manifest is not None
    adapters = bundle_adapters(source.files, source.manifest)
    strange = next((component for component in adapters if component != LANGUAGE_MODEL), None)
    if strange is not None or not adapters:
        what = f"has an adapter of {strange!r}" if strange else "has no adapter of the language model"
        raise UserError(f"{source.path}: {what}, which format {format.name} cannot hold; write the whole model")
    held = (*(part + "." for part in format.partial),)
    lost = next((name for name in source.files.tensors((OTHERS,)) if not name.startswith(held)), None)
    if lost is not None:
        raise UserError(
            f"{source.path}: trained {lost!r}, which format {format.name} cannot hold; write the whole model"
        )
    adapter = adapters[LANGUAGE_MODEL]
    below = {f"{LANGUAGE_MODEL}.{layer}": pair for layer, pair in adapter.factors.items()}
    base = source.children[0]
    if format.on_whole_models and base.kind in WHOLE:
        name, towers = base.place, _towers_of(base, source.path, model)
    else:
        language_model, towers = _parts_below(model, source, format)
        name = adapter.config["base_model_name_or_path"] if language_model is None else language_model
    config = {**adapter.config, "base_model_name_or_path": name}
    return Adapter(config, below).renamed(format.keys, source.path), towers


def _towers_of(base: Source, bundle: Path, model: VideoLM) -> dict[str, str]:
    """Places of the towers of a whole model below a bundle: published ones, else the model that holds them."""
    if base.kind != "native":
        return SYSTEMS[model.config.system].publication.named_parts(base.config).tower_places
    places = {name: base.place for name in model.config.towers}
    if (recipe := stored_recipe(bundle)) is not None:
        trained = [glob for stage in recipe.stages for glob in stage.train]
        for name, place in recipe.towers.items():
            if isinstance(place, str) and not any(component_matches(glob, f"towers.{name}") for glob in trained):
                places[name] = place
    return places


def _parts_below(model: VideoLM, source: Source, format: CheckpointFormat) -> tuple[str | None, dict[str, str]]:
    """Places where the language model and the towers of a bundle's base were published.

    Raises:
        UserError: the base holds weights that were not.
    """
    published = _published_parts(source.path)
    present = [name for name in model.config.towers if name not in model.config.absent_towers]
    components = [f"towers.{name}" for name in present]
    if not _stands_on_a_run(source):
        components = [LANGUAGE_MODEL, *components]
    assert source.files is not None
    sample = {**weight_sample(model), **source.files.tensors((SAMPLE,))}
    for component in components:
        values = {name: part for name, part in sample.items() if name.startswith(component + ".")}
        part = published.get(component)
        if part is None or first_difference(values, _weights_of(part, model)):
            place = "published anywhere" if part is None else part.place
            raise UserError(
                f"{source.path}: its base has weights of {component} that are not {place}; format "
                f"{format.name} does not hold them: write the whole model"
            )
    language_model = published.get(LANGUAGE_MODEL)
    towers = {name: published[f"towers.{name}"].place for name in present}
    return None if language_model is None else language_model.place, towers


def _published_parts(bundle: Path) -> dict[str, Source]:
    """Towers and language model whose places the recipe beside a bundle names, by component."""
    recipe = stored_recipe(bundle)
    if recipe is None:
        raise UserError(f"{bundle / RECIPE_FILE}: no such file; it names the parts of the bundle's base")
    without: dict[str, object] = {"checkpoint": None, "revision": None, "lora_runs": (), "connectors": {}}
    return {part.component: part for part in recognise(recipe.model_copy(update=without)).children}


def _weights_of(part: Source, model: VideoLM) -> dict[str, Tensor]:
    """Weights of a published part under our names, tied ones under each of their names."""
    found = rename(part.weights, key_map(part), LoadReport(part.component))
    if part.kind == "language_model":
        found = whole_language_model(part, found, model.config)
    return under_every_name(found, tied_names(model))


def _stands_on_a_run(source: Source) -> bool:
    """Whether the language model of a bundle is that of LoRA runs below it, which are written one by one."""
    assert source.manifest is not None
    if source.manifest.base.parts is not None:
        return bool(source.manifest.base.parts.lora_runs)
    return source.children[0].kind in ("bundle", "run")
