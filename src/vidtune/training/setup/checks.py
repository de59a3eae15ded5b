"""Checks of a recipe that need no model: mistakes in any stage are found before the first stage runs for hours."""

from pathlib import Path

from vidtune.data.sources import of_each_file
from vidtune.errors import RecipeError
from vidtune.machine.files import looked_for
from vidtune.models.text_alignment.contrast import GROUP
from vidtune.recipe.types import DataSource, Recipe, Stage
from vidtune.spelling import suggestion
from vidtune.training.setup.examples import prompt_name
from vidtune.training.setup.starting_model import check_quantization
from vidtune.training.trackers.opening import check_trackers


def check_stages(recipe: Recipe) -> None:
    """Check everything about the stages that can be checked without a model.

    Raises:
        UserError: no stages, a missing annotation file or package, a folder without annotations, an unknown prompt
            format, weights that cannot be quantised, settings that the objective does not have.
    """
    if not recipe.stages:
        raise RecipeError("the recipe has no stages: there is nothing to train")
    check_trackers(recipe.trackers)
    for stage in recipe.stages:
        prompt_name(recipe, stage)
        check_quantization(stage)
        _check_objective(stage)
        for source in stage.data:
            _check_paths(stage, source)


def _check_objective(stage: Stage) -> None:
    """Raise UserError where the objective of a stage and its other settings do not fit."""
    where, contrastive = f"stage {stage.name!r}", stage.objective == "contrastive"
    groups = ("towers", GROUP) if contrastive else ("towers", "connectors")
    others = [glob for glob in stage.train if glob.partition(".")[0] not in groups]
    if stage.objective and others:
        raise RecipeError(
            f"{where}: objective: {stage.objective} trains {' and '.join(groups)}; the language model does not run; "
            f"remove train.{others[0]}"
        )
    if stage.contrast is not None and not contrastive:
        raise RecipeError(
            f"{where}: contrast: only a stage with objective: contrastive has one; set it, or remove contrast"
        )
    if contrastive and stage.global_batch_size < 2:
        raise RecipeError(f"{where}: global_batch_size 1: a pair has nothing to be compared with; give at least 2")
    adapted = next((glob for glob, how in stage.train.items() if glob.startswith(GROUP) and how.lora), None)
    if adapted is not None:
        raise RecipeError(f"{where}: train.{adapted}.lora: only towers take low-rank adapters here; give a rate")


def chosen_stages(recipe: Recipe, name: str | None) -> tuple[Stage, ...]:
    """Returns the stage of this name alone, or all stages for None.

    Raises:
        UserError: no such stage; names the nearest.
    """
    if name is None:
        return recipe.stages
    names = [stage.name for stage in recipe.stages]
    if name not in names:
        raise RecipeError(f"no stage {name!r} in the recipe; {suggestion(name, names)}")
    return (recipe.stages[names.index(name)],)


def _check_paths(stage: Stage, source: DataSource) -> None:
    named = {"annotations": source.annotations, "media folder": source.media}
    named |= {f"the folder of {stream} features": folder for stream, folder in source.features.items()}
    of_each_file([source])
    for what, path in named.items():
        if path is None or Path(path).is_dir() or (what == "annotations" and Path(path).is_file()):
            continue
        verb = "do" if what == "annotations" else "does"
        raise RecipeError(
            f"stage {stage.name!r}: {what} {path}{looked_for(path)} {verb} not exist; mend data in the recipe"
        )
