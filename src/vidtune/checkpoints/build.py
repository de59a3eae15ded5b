"""Build what a recipe names: its model, its config without weights, or one tower alone."""

from pathlib import Path

from torch import Tensor, nn
from transformers import PreTrainedConfig

from vidtune.checkpoints.assembly.apply import assemble, key_map
from vidtune.checkpoints.assembly.composition import config_of
from vidtune.checkpoints.assembly.fill import Dtypes
from vidtune.checkpoints.files.tensors import require_dtypes
from vidtune.checkpoints.lora.bundle import Base
from vidtune.checkpoints.recognise import recognise
from vidtune.checkpoints.report import OURS, LoadReport, rename
from vidtune.checkpoints.source import Source
from vidtune.models.config import VideoLMConfig
from vidtune.models.video_lm import VideoLM
from vidtune.recipe.types import Recipe


def build_model(recipe: Recipe, dtype: Dtypes = None, reports: list[LoadReport] | None = None) -> VideoLM:
    """Return the model from which a recipe's first stage starts. Parts without weights are drawn from ``recipe.seed``.

    Args:
        dtype: dtype of all parameters, or of each component's; None keeps that of the weights (float32 when all are
            drawn). Weights are drawn in float32 and do not depend on it.
        reports: if given, takes up the report of every published part.

    Raises:
        UserError: weights that cannot be found or do not fit, sizes that contradict each other.
    """
    source = recognise(recipe)
    model, _ = assemble(source, dtype, reports)
    source.close()
    return model


def build_base(base: Base, dtype: Dtypes = None, tokenizer: str | None = None, system: str | None = None) -> VideoLM:
    """Return the model from which a stage starts, on CPU.

    Args:
        tokenizer: folder or hub id, if the recipe of ``base`` names none that is still there.
        system: name of the system that a checkpoint must be of; None: any.
    """
    if base.parts is not None:
        named = {"tokenizer": tokenizer} if tokenizer else {}
        return build_model(base.parts.model_copy(update=named), dtype)
    source = recognise(str(base.checkpoint), base=base.below, system=system)
    model, _ = assemble(source, dtype)
    source.close()
    return model


def build_config(recipe: Recipe, text_config: PreTrainedConfig | None = None) -> VideoLMConfig:
    """Return the config of the model that a recipe without ``checkpoint`` describes; no weights are read.

    Args:
        text_config: config of the language model; None: as the recipe says.
    """
    if text_config is not None:  # the recipe's own language model need not be there
        recipe = recipe.model_copy(update={"language_model": {}})
    parts = recipe.model_copy(update={"checkpoint": None, "revision": None, "lora_runs": ()})
    return config_of(recognise(parts), text_config)


def tower_of_recipe(recipe: Recipe, name: str, config: VideoLMConfig) -> nn.Module:
    """Return a tower as in the model from which a recipe starts. The rest of the model is built only if the tower is
    drawn at random or belongs to a whole checkpoint.

    Args:
        config: config of the model.

    Raises:
        UserError: weights that cannot be found or do not fit.
    """
    place = recipe.towers.get(name)
    if recipe.starting_place is not None and not isinstance(place, str):
        return tower_of_checkpoint(recipe.starting_place, name, recipe)
    if not isinstance(place, str):
        return build_model(recipe).towers[name]
    part = recognise(place, system=recipe.system, component=f"towers.{name}")
    report = LoadReport(part.component)
    prefix = f"{part.component}."
    state = {key.removeprefix(prefix): tensor for key, tensor in rename(part.weights, key_map(part), report).items()}
    return _filled(config, name, state, report, place)


def tower_of_checkpoint(place: str, name: str, recipe: Recipe) -> nn.Module:
    """Return a tower of a whole checkpoint. Of a model of ours only the tower's weights are read.

    Args:
        recipe: names the system, and the language model for checkpoints without it.

    Raises:
        UserError: weights that cannot be found or do not fit.
    """
    source = recognise(place, base=_language_model(recipe), system=recipe.system)
    if source.kind == "native":
        prefix, weights = f"towers.{name}.", source.weights
        state = {key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)}
        return _filled(config_of(source), name, state, LoadReport(OURS), place)
    return _assembled(source).towers[name]


def _language_model(recipe: Recipe) -> list[str]:
    return [recipe.language_model] if isinstance(recipe.language_model, str) else []


def _assembled(source: Source) -> VideoLM:
    model, _ = assemble(source)
    source.close()
    return model


def _filled(
    config: VideoLMConfig, name: str, state: dict[str, Tensor], report: LoadReport, path: str | Path
) -> nn.Module:
    """The tower with these weights, in their dtype."""
    tower = config.tower(name).build()
    require_dtypes(tower, state, path)
    found = tower.load_state_dict(state, strict=False, assign=True)
    report.missing, report.unexpected = found.missing_keys, report.unexpected + found.unexpected_keys
    report.refuse_gaps(Path(path))
    return tower
