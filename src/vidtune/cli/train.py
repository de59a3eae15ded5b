"""``vidtune train``: train the stages of a recipe."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vidtune.cli.options.recipe import Overrides, RecipeName
from vidtune.training.signals import NOTHING_SAVED, TrainingInterrupted


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; a run of the same recipe is continued, another is refused.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Device of torch; default: a GPU if there is one.")] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes of this machine that train together, such as one per GPU.")
    ] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan of every stage (steps, packs, tokens, memory) and leave.")
    ] = False,
    planned_ranks: Annotated[
        int, typer.Option("--ranks", min=1, help="For --dry-run: number of processes that would train together.")
    ] = 1,
    tokens_per_second: Annotated[
        float | None, typer.Option(min=0, help="For --dry-run: throughput of all processes, to estimate the time.")
    ] = None,
) -> None:
    """Train all stages of RECIPE in order; the same command resumes."""
    changes = overrides or ()
    if dry_run:
        from vidtune.machine.progress import ProgressDisplay
        from vidtune.recipe.files import load_recipe
        from vidtune.recipe.mistakes import of_recipe
        from vidtune.training.inspection.dry_run import describe, forecast

        if device is not None:
            from vidtune.machine.ranks.place import ProcessPlace, compute_device

            compute_device(ProcessPlace(), device)  # refuses a device that is not there
        loaded, planned = load_recipe(recipe, changes), max(planned_ranks, processes)
        with of_recipe(recipe), ProgressDisplay(enabled=not quiet, transient=True) as display:
            for stage in forecast(loaded, out, ranks=planned, progress=display):
                typer.echo(describe(stage, tokens_per_second))
        return
    if out is None:
        raise typer.BadParameter("name the folder of the run", param_hint="--out")
    try:
        _train(recipe, changes, out, device, processes, quiet)
    except KeyboardInterrupt:  # before the first step, or a second signal
        if any(out.glob("*/checkpoint-*")) or any(out.glob("*/final")):
            raise
        raise TrainingInterrupted(f"interrupted: {NOTHING_SAVED}") from None


def _train(recipe: str, changes: Sequence[str], out: Path, device: str | None, processes: int, quiet: bool) -> None:
    # Silences remarks of torch's C++ code that are meant for its developers. Read when torch is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from vidtune.machine.ranks.place import ProcessPlace
    from vidtune.recipe.files import load_recipe

    if ProcessPlace.from_environment().world == 1:  # ranks of a launcher say a mistake once
        load_recipe(recipe, changes)  # a mistake in it is said before torch is imported, which takes seconds
    if processes > 1:
        from vidtune.machine.ranks.place import compute_device
        from vidtune.recipe.mistakes import of_recipe
        from vidtune.training.ranks.launched import launch_training

        if device is not None:
            compute_device(ProcessPlace(), device)  # refuses a device that is not there
        loaded = load_recipe(recipe, changes)
        with of_recipe(recipe):
            launch_training(loaded, out, processes, device, progress=not quiet)
        return
    from vidtune.machine.ranks.launch import follow_launcher
    from vidtune.training.ranks.group import joined, speaking_once
    from vidtune.training.run import train as train_recipe

    follow_launcher()
    with joined(device) as ranks, speaking_once(ranks):
        run = train_recipe(recipe, changes, out=out, progress=not quiet, ranks=ranks)
        if ranks.is_main:
            typer.echo(f"trained: {run.final}")
