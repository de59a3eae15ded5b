"""Options of several commands: which checkpoint is loaded, and what completes it."""

from collections.abc import Sequence
from typing import Annotated

import typer

from vidtune.errors import UserError

Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of a checkpoint on the hub; default: the newest.")
]
System = Annotated[
    str | None, typer.Option(help="System of a checkpoint that several systems claim; `vidtune systems` lists them.")
]
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
    """Return the values of a repeated option ``NAME=VALUE`` by name.

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
