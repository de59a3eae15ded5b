"""``vidtune data check``: check training data before training."""

from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.options.recipe import Overrides, RecipeName


def check(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; training into it leaves out what cannot be used.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Check this stage only.")] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every file; default: read headers only.")] = False,
) -> None:
    """Check every sample and file of a recipe; report by reason, and record what cannot be used.

    Of a mixture of data sets, it says first which sets are there and which are not. The exit code is 2 if training
    would refuse the data of a stage: no sample can be used, or the share of those that cannot is above max_excluded.
    """
    from vidtune.errors import UserError
    from vidtune.machine.progress import ProgressDisplay
    from vidtune.recipe.files import load_recipe
    from vidtune.recipe.mistakes import of_recipe
    from vidtune.training.inspection.data_check import check_recipe_data, describe, refusal, set_lists

    loaded = load_recipe(recipe, overrides or ())
    with of_recipe(recipe):
        for listed in set_lists(loaded, stage):
            typer.echo(listed)
    refused = []
    with of_recipe(recipe), ProgressDisplay(transient=True) as display:
        for checked, report in check_recipe_data(loaded, out, only=stage, decode=decode, progress=display):
            typer.echo(describe(checked, report, out))
            refused += [reason] if (reason := refusal(checked, report)) else []
    if refused:
        raise UserError("; ".join(refused))
