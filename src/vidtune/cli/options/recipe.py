"""Arguments of several commands: a recipe, and what is changed in it."""

from typing import Annotated

import typer

RecipeName = Annotated[str, typer.Argument(help="Name of a shipped recipe, or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as stages.finetune.epochs=0.5 or seed=1.")
]
