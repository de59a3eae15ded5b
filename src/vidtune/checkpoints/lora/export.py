"""Our LoRA results, or published ones read before, written as LLaVA-style trainers leave them.

The folder holds the adapter of the language model, the connectors trained beside it and a config; whoever reads it
brings what it stands on (``--model-base``): the language model, connectors that it does not hold, earlier LoRA runs.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from vidtune.checkpoints.build import published_weights
from vidtune.checkpoints.checkpoints import Checkpoint, LoadReport, export_state, read_config, rename
from vidtune.checkpoints.files.hub import locate
from vidtune.checkpoints.files.tensors import read_state
from vidtune.checkpoints.formats import CheckpointFormat, JsonDict, KeyMap
from vidtune.checkpoints.lora.adapters import TRAINABLE_NAMES, WRAPPER, Adapter, is_adapter, read_adapter, write_adapter
from vidtune.checkpoints.lora.bundle import (
    LANGUAGE_MODEL,
    OTHERS,
    SAMPLE,
    bundle_adapters,
    first_difference,
    is_bundle,
    read_manifest,
    weight_sample,
)
from vidtune.errors import UserError
from vidtune.recipe.types import load_recipe
from vidtune.registry import SYSTEMS


def write_lora_run(checkpoint: Checkpoint, source: Path, format: CheckpointFormat, folder: Path) -> None:
    """Write the LoRA run in ``source`` in a published format; ``checkpoint`` is what loading it gave, merged.

    Raises:
        UserError: ``source`` holds no adapter, or stands on weights that were published nowhere; ValueError from the
            format's own config writer.
    """
    if is_bundle(source):
        adapter, towers = _bundle_parts(checkpoint, source, format)
    elif is_adapter(source):
        adapter = read_adapter(source)
        towers = SYSTEMS[checkpoint.model.config.system].publication.named_parts(read_config(source)).tower_places
    else:
        raise UserError(f"{source}: holds no low-rank adapter, which format {format.name} is for")
    config = _config(checkpoint, format, towers)
    write_adapter(adapter, folder, pickled=True)
    state = {WRAPPER + name: tensor for name, tensor in export_state(checkpoint.model, format).items()}
    torch.save(state, folder / TRAINABLE_NAMES[0])
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _config(checkpoint: Checkpoint, format: CheckpointFormat, towers: Mapping[str, str]) -> JsonDict:
    assert format.write_config is not None
    return format.write_config(checkpoint.model.config, towers)


def _bundle_parts(checkpoint: Checkpoint, source: Path, format: CheckpointFormat) -> tuple[Adapter, dict[str, str]]:
    """The language model's adapter under the format's names, and where the towers were published.

    What the format does not hold must be what was published, or another such run: else the run, read again, would be
    another model.
    """
    adapters = bundle_adapters(source)
    strange = next((component for component in adapters if component != LANGUAGE_MODEL), None)
    if strange is not None or not adapters:
        what = f"has an adapter of {strange!r}" if strange else "has no adapter of the language model"
        raise UserError(f"{source}: {what}, which format {format.name} cannot hold; write the whole model")
    others = read_state(source / OTHERS)
    held = (*(part + "." for part in format.partial),)
    lost = next((name for name in others if not name.startswith(held)), None)
    if lost is not None:
        raise UserError(f"{source}: trained {lost!r}, which format {format.name} cannot hold; write the whole model")
    published = {name: (path, keys) for name, path, keys in published_weights(load_recipe(source / "recipe.yaml"))}
    present = [name for name in checkpoint.model.config.towers if name not in checkpoint.model.config.absent_towers]
    components = [f"towers.{name}" for name in present]
    if not _stands_on_a_run(source):
        components = [LANGUAGE_MODEL, *components]
    sample = {**weight_sample(checkpoint.model), **read_state(source / SAMPLE)}
    for component in components:
        values = {name: part for name, part in sample.items() if name.startswith(component + ".")}
        path, keys = published.get(component, ("", KeyMap(())))
        if not path or first_difference(values, rename(read_state(locate(path)), keys, LoadReport(component))):
            raise UserError(
                f"{source}: its base has weights of {component} that are not {path or 'published anywhere'}; format "
                f"{format.name} does not hold them: write the whole model"
            )
    towers = {name: published[f"towers.{name}"][0] for name in present}
    adapter = adapters[LANGUAGE_MODEL]
    below = {f"{LANGUAGE_MODEL}.{layer}": pair for layer, pair in adapter.factors.items()}
    name = published.get(LANGUAGE_MODEL, (adapter.config["base_model_name_or_path"], None))[0]
    config = {**adapter.config, "base_model_name_or_path": name}
    return Adapter(config, below).renamed(format.keys, source), towers


def _stands_on_a_run(source: Path) -> bool:
    """Whether a bundle's language model is that of LoRA runs below it, which are written one by one."""
    base = read_manifest(source).base
    if base.parts is not None:
        return bool(base.parts.lora_runs)
    below = base.found(source, None)
    place = locate(str(below.checkpoint))
    return is_bundle(place) or is_adapter(place)
