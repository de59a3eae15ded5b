"""Options by which several commands say what a checkpoint is completed with."""

from collections.abc import Sequence
from typing import Annotated

import typer

from vidtune.errors import UserError

ModelBase = Annotated[
    list[str] | None,
    typer.Option(
        help="What a checkpoint that is not whole stands on; may be repeated, bottom up: language model, connector "
        "file, LoRA runs. Or where the base of a LoRA result has moved to."
    ),
]
Towers = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=WEIGHTS", help="Weights of a tower that the checkpoint comes without: file, folder or hub id."
    ),
]


def assignments(given: Sequence[str] | None, option: str) -> dict[str, str]:
    """``NAME=VALUE`` texts of a repeated option by name.

    Raises:
        UserError: a text without name or value, or a name given twice.
    """
    found: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UserError(f"{option} {text}: write {option} NAME=VALUE")
        if name in found:
            raise UserError(f"{option} {name}: given twice")
        found[name] = value
    return found
