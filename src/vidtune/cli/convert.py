"""``vidtune convert``: checkpoints from one format to another."""

from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.options.loading import ModelBase, Revision, System, Towers, assignments
from vidtune.cli.terminal.shown_text import warn


def convert(
    source: Annotated[str, typer.Argument(help="Folder, file or hub id of a checkpoint in any known format.")],
    to_folder: Annotated[
        Path | None, typer.Argument(metavar="[OUT]", help="New folder; one that holds files is refused.")
    ] = None,
    to: Annotated[str, typer.Option(help="Format to write: vidtune, or one that `vidtune systems` lists.")] = "vidtune",
    revision: Revision = None,
    system: System = None,
    model_base: ModelBase = None,
    tower: Towers = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer, when the checkpoint's folder holds none: folder or hub id.")
    ] = None,
    difference_from: Annotated[
        str | None,
        typer.Option(
            metavar="BASE",
            help="Language model from which a format of differences is counted: folder or hub id; "
            "default: the one that the checkpoint stands on.",
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print the steps in which the model is put together, and write nothing.")
    ] = False,
) -> None:
    """Read a checkpoint strictly, report its keys, and write it in another format.

    Low-rank adapters are merged, except into a format that is made of them.
    """
    from vidtune.checkpoints.explain import explain as explained
    from vidtune.checkpoints.load import load_checkpoint, recognise_checkpoint
    from vidtune.checkpoints.write import format_into, left_out, save_checkpoint, unkept_rules, writable_formats
    from vidtune.errors import UserError

    towers = assignments(tower, "--tower")
    if to_folder is None and not explain:
        raise UserError("name OUT, the folder to write; or --explain, to see how the model is put together")
    found = recognise_checkpoint(source, revision=revision, system=system, base=model_base, towers=towers)
    if explain or to_folder is None:
        typer.echo(explained(found))
        return
    if found.system is not None:
        format_into(to_folder, found.system, to, difference_from)  # refused before the weights are read
    found.close()
    checkpoint = load_checkpoint(
        source, revision=revision, system=system, base=model_base, towers=towers, tokenizer=tokenizer
    )
    typer.echo(checkpoint.report)
    for warning in checkpoint.report.warnings:
        warn(warning)
    save_checkpoint(checkpoint, to_folder, to, difference_from)
    typer.echo(f"written: {to_folder} ({to})")
    if lost := left_out(checkpoint, to):
        others = [name for name in writable_formats(checkpoint) if not left_out(checkpoint, name)]
        line = f"format {to} has no place for {', '.join(lost)}: keep their weights, or write {' or '.join(others)}"
        warn(line)
    if rules := unkept_rules(checkpoint, to):
        told = ", ".join(f"{key} {mine!r} (then {usual!r})" for key, (mine, usual) in rules.items())
        warn(
            f"format {to} has no place for how this model reads media: {told}; answers are those of before under the "
            "same rules (vidtune evaluate --protocol preprocessing.KEY=VALUE), or from the folder here"
        )
