"""``vidtune data``: check training data before training, convert annotations, extract frames of videos."""

from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(help="Check and convert training data; extract frames.", no_args_is_help=True, rich_markup_mode=None)


@data.callback()
def group() -> None:
    """Check and convert training data; extract frames."""


@data.command()
def check(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as stages.finetune.max_length=1024.")
    ] = None,
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
    from vidtune.recipe.types import load_recipe
    from vidtune.training.inspection.data_check import check_recipe_data, describe, refusal, set_lists

    loaded = load_recipe(recipe, overrides or ())
    for listed in set_lists(loaded, stage):
        typer.echo(listed)
    refused = []
    with ProgressDisplay(transient=True) as display:
        for checked, report in check_recipe_data(loaded, out, only=stage, decode=decode, progress=display):
            typer.echo(describe(checked, report, out))
            refused += [reason] if (reason := refusal(checked, report)) else []
    if refused:
        raise UserError("; ".join(refused))


@data.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Annotation file of any form.")],
    target: Annotated[Path, typer.Argument(help="File to write: *.json, *.jsonl, *.csv or *.tsv.")],
    form: Annotated[
        str | None, typer.Option(help="conversations, messages or table; default: that of the ending.")
    ] = None,
    media: Annotated[
        Path | None, typer.Option(help="Media folder; absolute paths below it become relative ones.")
    ] = None,
) -> None:
    """Write annotations in another form: the same samples, which train in the same order.

    Records of a wrong form are named, each with its line, and left out; the exit code is 2 then.
    """
    from vidtune.data.forms.writing import convert as write
    from vidtune.errors import UserError
    from vidtune.spelling import counted

    done = write(source, target, form, media)
    typer.echo(f"{target}: {counted(done.count, 'record')} as {done.form}")
    for identity, problem in done.problems:
        typer.echo(f"  left out{f' ({identity})' if identity else ''}: {problem}")
    if done.problems:
        raise UserError(f"{source}: {counted(len(done.problems), 'record')} left out, named above")


@data.command()
def frames(
    videos: Annotated[list[Path], typer.Argument(help="Video files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder that gets a folder of frames for each video.")],
    fps: Annotated[float, typer.Option(help="Frames per second, exactly.")] = 1.0,
) -> None:
    """Write the frames of videos as pictures, NAME/NAME_1.jpg and so on.

    A video whose folder exists is skipped, so that a command that was stopped can be repeated. The exit code is 2 if a
    video cannot be read, or its folder was made at another rate; the others are extracted all the same.
    """
    import math

    from vidtune.data.frames import extract_frames, videos_in
    from vidtune.errors import UserError
    from vidtune.machine.progress import ProgressDisplay
    from vidtune.spelling import counted

    if not (math.isfinite(fps) and fps > 0):
        raise UserError(f"--fps {fps:g}: give a number above 0")
    wrong = []
    with ProgressDisplay(transient=True) as display:
        found = videos_in(videos, out)
        for video, number, error in extract_frames(found, fps, display):
            if error is None:
                typer.echo(f"{video}: {counted(number, 'frame')} in {found[video]}")
            else:
                wrong.append(str(error))
    if wrong:
        raise UserError("; ".join(wrong))
