"""A tower without the rest of its model: what extracts features needs no language model in memory."""

from pathlib import Path

from torch import Tensor, nn

from vidtune.checkpoints.build import build_model, published_weights
from vidtune.checkpoints.checkpoints import OURS, LoadReport, load_checkpoint, read_config, rename
from vidtune.checkpoints.files.hub import locate
from vidtune.checkpoints.files.tensors import read_state
from vidtune.checkpoints.lora.bundle import is_bundle
from vidtune.models.config import VideoLMConfig
from vidtune.recipe.types import Recipe


def tower_of_recipe(recipe: Recipe, name: str, config: VideoLMConfig) -> nn.Module:
    """A tower as the model has it that a recipe starts from; the rest of the model is built only where the tower is
    drawn at random or belongs to a whole checkpoint.

    Args:
        config: of the model.

    Raises:
        UserError: weights that cannot be found or do not fit.
    """
    component = f"towers.{name}"
    for found, path, keys in published_weights(recipe):
        if found == component and not recipe.checkpoint:
            report = LoadReport(component)
            state = rename(read_state(locate(path)), keys, report)
            return _filled(
                config, name, {key.removeprefix(f"{component}."): t for key, t in state.items()}, report, path
            )
    if recipe.checkpoint:
        return tower_of_checkpoint(recipe.checkpoint, name, recipe)
    return build_model(recipe).towers[name]


def tower_of_checkpoint(name_or_path: str, name: str, recipe: Recipe) -> nn.Module:
    """A tower of a whole checkpoint.

    Args:
        recipe: names the language model and the tokenizer, for checkpoints without them.

    Raises:
        UserError: weights that cannot be found or do not fit.
    """
    folder = locate(name_or_path)
    if folder.is_dir() and read_config(folder).get("model_type") == OURS and not is_bundle(folder):
        prefix = f"towers.{name}."
        state = {key: tensor for key, tensor in read_state(folder).items() if key.startswith(prefix)}
        tensors = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
        return _filled(VideoLMConfig.from_pretrained(folder), name, tensors, LoadReport(OURS), name_or_path)
    base = recipe.language_model if isinstance(recipe.language_model, str) else None
    return load_checkpoint(name_or_path, base=base, tokenizer=recipe.tokenizer).model.towers[name]


def _filled(
    config: VideoLMConfig, name: str, state: dict[str, Tensor], report: LoadReport, path: str | Path
) -> nn.Module:
    """The tower with these weights, in their dtype."""
    tower = config.tower(name).build()
    found = tower.load_state_dict(state, strict=False, assign=True)
    report.missing, report.unexpected = found.missing_keys, report.unexpected + found.unexpected_keys
    report.refuse_gaps(Path(path))
    return tower
