"""Checks of a recipe that need no model: mistakes in any stage are found before the first stage runs for hours."""

from pathlib import Path

from vidtune.data.sources import of_each_file
from vidtune.errors import UserError
from vidtune.machine.files import looked_for
from vidtune.recipe.types import DataSource, Recipe, Stage
from vidtune.spelling import suggestion
from vidtune.training.setup.examples import prompt_name
from vidtune.training.setup.starting_model import check_quantization
from vidtune.training.trackers.opening import check_trackers


def check_stages(recipe: Recipe) -> None:
    """Check everything about the stages that can be checked without a model.

    Raises:
        UserError: no stages, a missing annotation file or package, a folder without annotations, an unknown prompt
            format, weights that cannot be quantised, a component that the objective does not train.
    """
    if not recipe.stages:
        raise UserError("the recipe has no stages: there is nothing to train")
    check_trackers(recipe.trackers)
    for stage in recipe.stages:
        prompt_name(recipe, stage)
        check_quantization(stage)
        _check_objective(stage)
        for source in stage.data:
            _check_paths(stage, source)


def _check_objective(stage: Stage) -> None:
    """Raise UserError where a stage that aligns media with words trains what takes no part in it."""
    others = [glob for glob in stage.train if glob.partition(".")[0] not in ("towers", "connectors")]
    if stage.objective and others:
        raise UserError(
            f"stage {stage.name!r}: objective: {stage.objective} trains towers and connectors; the language model does "
            f"not run; remove train.{others[0]}"
        )


def chosen_stages(recipe: Recipe, name: str | None) -> tuple[Stage, ...]:
    """Returns the stage of this name alone, or all stages for None.

    Raises:
        UserError: no such stage; names the nearest.
    """
    if name is None:
        return recipe.stages
    names = [stage.name for stage in recipe.stages]
    if name not in names:
        raise UserError(f"no stage {name!r} in the recipe; {suggestion(name, names)}")
    return (recipe.stages[names.index(name)],)


def _check_paths(stage: Stage, source: DataSource) -> None:
    named = {"annotations": source.annotations, "media folder": source.media}
    named |= {f"the folder of {stream} features": folder for stream, folder in source.features.items()}
    of_each_file([source])
    for what, path in named.items():
        if path is None or Path(path).is_dir() or (what == "annotations" and Path(path).is_file()):
            continue
        verb = "do" if what == "annotations" else "does"
        raise UserError(
            f"stage {stage.name!r}: {what} {path}{looked_for(path)} {verb} not exist; mend data in the recipe"
        )
